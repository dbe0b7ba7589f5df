"""Mona, the multi-cognitive visual adapter, as a PEFT tuner. Importing this package registers it with PEFT."""

from mona_peft.blocks import BlockAnatomy, register_block
from mona_peft.hotswap import hotswap_adapter
from mona_peft.mona import Mona, MonaConfig, MonaLayer, MonaModel
from mona_peft.official_checkpoints import load_official_checkpoint, official_state_dict
from mona_peft.pretrained_backbone import load_backbone
from mona_peft.registration import register_method

__version__ = "0.1.0"

__all__ = [
    "BlockAnatomy",
    "Mona",
    "MonaConfig",
    "MonaLayer",
    "MonaModel",
    "hotswap_adapter",
    "load_backbone",
    "load_official_checkpoint",
    "official_state_dict",
    "register_block",
]

register_method("mona", MonaConfig, MonaModel)
