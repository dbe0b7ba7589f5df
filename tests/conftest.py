"""What every test shares: no network, no display, one thread, and caches of its own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Makes random weights and inputs the same in every run and in any order of the tests."""
    torch.manual_seed(0)
