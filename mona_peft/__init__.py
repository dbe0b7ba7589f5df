"""Mona, the multi-cognitive visual adapter, and its rivals, as PEFT tuners. Importing this registers them with PEFT."""

from mona_peft.blocks import BlockAnatomy, register_block
from mona_peft.hotswap import hotswap_adapter
from mona_peft.mona import Mona, MonaConfig, MonaLayer, MonaModel
from mona_peft.official_checkpoints import load_official_checkpoint, official_state_dict
from mona_peft.pretrained_backbone import load_backbone
from mona_peft.registration import register_method
from mona_peft.rivals.adapter import AdapterConfig, AdapterModel
from mona_peft.rivals.adaptformer import AdaptFormerConfig, AdaptFormerModel
from mona_peft.rivals.bitfit import BitFitConfig, BitFitModel
from mona_peft.rivals.colin import CoLinConfig, CoLinModel
from mona_peft.rivals.lorand import LoRandConfig, LoRandModel

__version__ = "0.1.0"

__all__ = [
    "AdaptFormerConfig",
    "AdaptFormerModel",
    "AdapterConfig",
    "AdapterModel",
    "BitFitConfig",
    "BitFitModel",
    "BlockAnatomy",
    "CoLinConfig",
    "CoLinModel",
    "LoRandConfig",
    "LoRandModel",
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

for _config_cls, _model_cls in (
    (MonaConfig, MonaModel),
    (AdapterConfig, AdapterModel),
    (AdaptFormerConfig, AdaptFormerModel),
    (LoRandConfig, LoRandModel),
    (CoLinConfig, CoLinModel),
    (BitFitConfig, BitFitModel),
):
    register_method(_config_cls, _model_cls)
