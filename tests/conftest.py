"""What every test shares: no network, no display, one thread, and caches of its own."""

import atexit
import ctypes
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mona-peft-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

try:  # as PyTorch looks for the driver of a GPU, which is not imported yet
    ctypes.CDLL("libcuda.so.1")
except OSError:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, as PyTorch does from 2.14 on

from tests.torchvision_schemas import declare  # noqa: E402 (the environment comes first)

declare()  # transformers imports a torchvision that is there

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil  # noqa: E402

from tests.folders import write_images  # noqa: E402

torch.set_num_threads(1)


DEPRECATIONS_OF_OTHERS = (
    "`is_gradient_checkpointing` is deprecated:FutureWarning",  # PEFT asks transformers so
    "`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # torch.export of itself
    "<class 'torch.autograd.function.Function'> should not be:DeprecationWarning",  # torch.compile of itself
    "`torch.jit:DeprecationWarning",  # what tests of tracing are about, and torch.func
)
"""Beginnings of messages that neither we nor our tests cause, with their categories."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deprecations", action="store_true", help="Deprecations are errors, whichever file they are attributed to."
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("deprecations"):
        kinds = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
        for line in (*(f"error::{kind}" for kind in kinds), *(f"ignore:{end}" for end in DEPRECATIONS_OF_OTHERS)):
            config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Makes random weights and inputs the same in every run and in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def swin_folder(tmp_path_factory) -> Path:
    """A random Swin with a head for seven classes, and its image processor."""
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    config = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=7)
    SwinForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Twelve noisy images of each of three colours, in folders by class."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 12)
    return folder
