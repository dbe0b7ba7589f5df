"""Asking for the kernels in Triton where they cannot run; what they compute is tested in `test_triton.py`."""

from __future__ import annotations

import subprocess
import sys
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
import torch

from mona_peft.functional import triton as kernels
from mona_peft.functional.folding import fold
from tests.functional_reference import random_mona, tokens


@pytest.fixture
def version(monkeypatch):
    """Sets the version of Triton that is installed, or None."""

    def install(found: str | None) -> None:
        monkeypatch.setitem(sys.modules, "triton", None if found is None else SimpleNamespace(__version__=found))
        kernels._load_engine.cache_clear()

    return install


@pytest.mark.parametrize(("found", "reason"), [(None, "not installed"), ("3.2.0", r"here it is 3\.2\.0")])
def test_without_a_triton_that_fits(found, reason, version):
    version(found)
    with pytest.raises(ImportError, match=rf"need triton>=3\.6; .*{reason}"), kernels.triton_kernels():
        pass


def test_asked_for_by_the_environment(version, monkeypatch):
    """Where the kernels serve, a missing Triton is an error; elsewhere nobody needs it."""
    version(None)
    monkeypatch.setattr(kernels, "_is_asked_for", ContextVar("asked_for", default=True))
    mona = random_mona(16).float()
    weights = fold(mona.weights(), mona.settings())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernels.chosen_engine(torch.empty(1, 1, 16), weights) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ImportError, match="asked for"):
        kernels.chosen_engine(torch.empty(1, 1, 16), weights)
    assert kernels.chosen_engine(torch.empty(1, 1, 16, dtype=torch.float64), weights) is None


def test_variable_is_read_and_plain_operations_serve_the_cpu(monkeypatch):
    monkeypatch.setenv("MONA_PEFT_TRITON", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code = (
        "import torch, mona_peft; from mona_peft.functional import triton; assert triton._is_asked_for.get(); "
        "mona_peft.Mona(16)(torch.randn(1, 12, 16), (4, 3))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_not_asking_leaves_the_result_alone():
    mona, x = random_mona(16), tokens(16, (4, 3))
    expected = mona(x, (4, 3))
    with kernels.triton_kernels(False):
        torch.testing.assert_close(mona(x, (4, 3)), expected, rtol=0, atol=0)
