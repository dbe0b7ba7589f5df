"""Mona, the multi-cognitive visual adapter, and its rivals, as PEFT tuners. Importing this registers them with PEFT."""

from mona_peft.blocks import BlockAnatomy, register_block
from mona_peft.integration.hotswap import hotswap_adapter
from mona_peft.integration.registration import register_method
from mona_peft.interop.official_checkpoints import load_official_checkpoint, official_state_dict
from mona_peft.interop.pretrained_backbone import load_backbone
from mona_peft.methods.adapter import AdapterConfig, AdapterModel
from mona_peft.methods.adaptformer import AdaptFormerConfig, AdaptFormerModel
from mona_peft.methods.bitfit import BitFitConfig, BitFitModel
from mona_peft.methods.colin import CoLinConfig, CoLinModel
from mona_peft.methods.lorand import LoRandConfig, LoRandModel
from mona_peft.methods.mona import Mona, MonaConfig, MonaLayer, MonaModel
from mona_peft.version import __version__

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
    "__version__",
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
