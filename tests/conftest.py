"""What every test shares: no network, no display, one thread, and caches of its own."""

import atexit
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mona-peft-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import pytest  # noqa: E402 (the environment comes first)
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Makes random weights and inputs the same in every run and in any order of the tests."""
    torch.manual_seed(0)
