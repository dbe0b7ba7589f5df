"""Training at scale: processes, shards, checkpointing and accumulation give what one plain process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from peft import PeftModel
from safetensors.torch import load_file

from tests.models import build, images, largest_difference, outputs
from tests.names import CHECKPOINTING
from tests.script_runs import ROOT, TORCHRUN
from tests.training_runs import (
    LOSSES,
    RESUMES_ON_SEVERAL_CPU_PROCESSES,
    STEPS,
    TASKS,
    adapted_model,
    resume,
    train_by_hand,
    train_with_trainer,
)

WEIGHTS = "adapter_model.safetensors"
ACCELERATE_CONFIGS = ROOT / "scripts" / "accelerate_configs"
LOSS_ROUNDING = 1e-4
"""Trainer writes losses with four digits behind the point."""


def assert_same_weights(folder: Path, expected: Path, atol: float = 1e-10) -> None:
    ours, theirs = load_file(folder / WEIGHTS), load_file(expected / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, atol=atol, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


def losses(folder: Path) -> list[float]:
    return load_file(folder / LOSSES)["losses"].tolist()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    """Folder with what one process trains of each task, on Trainer and by hand."""
    folder = tmp_path_factory.mktemp("one_process")
    for name in TASKS:
        train_with_trainer(name, folder / name / "trainer")
        train_by_hand(name, folder / name / "by_hand")
    return folder


def run_two_processes(*arguments: str, **environment: str) -> None:
    result = subprocess.run(
        [sys.executable, *TORCHRUN, "tests.training_runs", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """Folder with what two processes train together: DDP on Trainer, FSDP2 by hand; and resumed."""
    folder = tmp_path_factory.mktemp("two_processes")
    run_two_processes(str(folder))
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_training_changes_the_outputs(name, one_process):
    """What the other tests compare is not the start."""
    trained = PeftModel.from_pretrained(build(name), one_process / name / "trainer").eval()
    before = outputs(adapted_model(name).eval().float(), images())
    assert largest_difference(outputs(trained, images()), before) > 1e-3
    assert len(set(losses(one_process / name / "trainer"))) == STEPS


@pytest.mark.parametrize("name", TASKS)
def test_data_parallel_processes(name, one_process, two_processes):
    ours, theirs = two_processes / name / "trainer", one_process / name / "trainer"
    assert_same_weights(ours, theirs)
    assert losses(ours) == pytest.approx(losses(theirs), abs=LOSS_ROUNDING)


@pytest.mark.parametrize("name", TASKS)
def test_sharded_processes(name, one_process, two_processes):
    ours, theirs = two_processes / name / "by_hand", one_process / name / "by_hand"
    assert_same_weights(ours, theirs)
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-10)
    PeftModel.from_pretrained(build(name), ours)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_with_accumulation(one_process, tmp_path, use_reentrant):
    train_with_trainer(
        "swin-classifier",
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        **{CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": use_reentrant}},
    )
    expected = one_process / "swin-classifier" / "trainer"
    assert_same_weights(tmp_path, expected)
    assert losses(tmp_path) == pytest.approx(losses(expected), abs=LOSS_ROUNDING)


def assert_resumed_exactly(folder: Path) -> None:
    assert_same_weights(folder / "resumed", folder / "whole", atol=0.0)
    assert losses(folder / "resumed") == losses(folder / "whole")
    early, late = (load_file(folder / "whole" / f"checkpoint-{step}" / WEIGHTS) for step in (STEPS - 1, STEPS))
    assert any(not torch.equal(early[key], late[key]) for key in early)


def test_resuming_is_exact(tmp_path):
    resume(tmp_path)
    assert_resumed_exactly(tmp_path)


@pytest.mark.skipif(not RESUMES_ON_SEVERAL_CPU_PROCESSES, reason="Trainer can't before transformers 5.23")
def test_resuming_on_two_processes_is_exact(two_processes):
    assert_resumed_exactly(two_processes)


@pytest.mark.deepspeed
def test_zero2_of_deepspeed(tmp_path):
    train_with_trainer("swin-classifier", tmp_path / "one", dtype=torch.float32)
    run_two_processes(str(tmp_path / "two"), "deepspeed", DS_ACCELERATOR="cpu")
    assert_same_weights(tmp_path / "two", tmp_path / "one", atol=1e-6)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=LOSS_ROUNDING)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2"])
def test_configurations_are_read_by_accelerate(name):
    """accelerate takes every field, and the class that FSDP wraps is that of an adapted block."""
    config = load_config_from_file(str(ACCELERATE_CONFIGS / f"{name}.yaml"))
    assert config.num_processes == 2
    wrapped = config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap") if name == "fsdp2" else None
    if wrapped:
        assert any(type(module).__name__ == wrapped for module in adapted_model().modules())
