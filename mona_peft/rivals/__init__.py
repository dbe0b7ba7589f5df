"""The methods that Mona is compared with, as PEFT tuners: those that PEFT itself has not.

Each is one file on the mechanism that hosts Mona too (`residual.py`, `places.py`, `tuner/`), but for BitFit, which
trains what is there.
"""

from mona_peft.rivals.adapter import AdapterConfig, AdapterModel
from mona_peft.rivals.adaptformer import AdaptFormerConfig, AdaptFormerModel
from mona_peft.rivals.bitfit import BitFitConfig, BitFitModel
from mona_peft.rivals.colin import CoLin, CoLinConfig, CoLinModel
from mona_peft.rivals.lorand import LoRand, LoRandConfig, LoRandModel

__all__ = [
    "AdaptFormerConfig",
    "AdaptFormerModel",
    "AdapterConfig",
    "AdapterModel",
    "BitFitConfig",
    "BitFitModel",
    "CoLin",
    "CoLinConfig",
    "CoLinModel",
    "LoRand",
    "LoRandConfig",
    "LoRandModel",
]
