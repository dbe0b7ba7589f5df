"""Mona, the multi-cognitive visual adapter, and its rivals, as PEFT tuners. Importing this registers them with PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mona_peft.blocks import BlockAnatomy, register_block
from mona_peft.config import ResidualAdapterConfig
from mona_peft.host.block import ResidualAdapter
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

if TYPE_CHECKING:
    from pathlib import Path

    from mona_peft.tasks.trained import TrainedRun

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
    "ResidualAdapter",
    "ResidualAdapterConfig",
    "__version__",
    "hotswap_adapter",
    "load",
    "load_backbone",
    "load_official_checkpoint",
    "official_state_dict",
    "register_block",
    "register_method",
]


def load(run: str | Path, base_model: str | None = None, revision: str | None = None) -> TrainedRun:
    """Loads what `mona-peft train` has trained: base model, adapter and head, image processor and names of the classes.

    Args:
        run: An output directory, the folder `adapter` or `model` in it, or the name of a repository on the hub.
        base_model: Where the pre-trained model (or backbone) is now, if it is not where it was in training.
        revision: Branch, tag or commit of a repository on the hub.

    Raises:
        ValueError: There is no such run, it has not ended, or its base model is not to be found.
    """
    from mona_peft.tasks.trained import load_run  # no need of it to adapt a model

    return load_run(run, base_model, revision)
