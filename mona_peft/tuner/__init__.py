"""Residual adapters as a PEFT tuner: the configuration, layer and model that every method on `residual.py` shares."""

from mona_peft.tuner.base import MethodModel
from mona_peft.tuner.config import MethodConfig, ResidualAdapterConfig
from mona_peft.tuner.layer import FreeTunerLayer, ResidualAdapterLayer
from mona_peft.tuner.model import ResidualAdapterModel

__all__ = [
    "FreeTunerLayer",
    "MethodConfig",
    "MethodModel",
    "ResidualAdapterConfig",
    "ResidualAdapterLayer",
    "ResidualAdapterModel",
]
