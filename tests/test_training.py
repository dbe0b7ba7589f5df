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
from tests.training_runs import adapted_model, losses, train_by_hand, train_with_trainer

WEIGHTS = "adapter_model.safetensors"
ACCELERATE_CONFIGS = Path(__file__).parents[1] / "scripts" / "accelerate_configs"
LOSS_ROUNDING = 1e-4
"""Trainer writes losses with four digits behind the point."""


def assert_same_weights(folder: Path, expected: Path, atol: float = 1e-10) -> None:
    ours, theirs = load_file(folder / WEIGHTS), load_file(expected / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, atol=atol, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    """Folder with what one process trains, on Trainer and by hand, and the losses."""
    folder = tmp_path_factory.mktemp("one_process")
    trainer = train_with_trainer(folder / "trainer")
    train_by_hand(folder / "by_hand")
    torch.save(losses(trainer), folder / "losses.pt")
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """Folder with what two processes train together: `ddp` on Trainer, `fsdp2` by hand, and the losses."""
    folder = tmp_path_factory.mktemp("two_processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, "-m", "tests.training_runs", str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def test_training_changes_the_outputs(one_process):
    """What the other tests compare is not the start."""
    trained = PeftModel.from_pretrained(build("swin-classifier"), one_process / "trainer").eval()
    before = outputs(adapted_model().eval().float(), images())
    assert largest_difference(outputs(trained, images()), before) > 1e-3
    assert len(set(torch.load(one_process / "losses.pt"))) == 3


def test_data_parallel_processes(one_process, two_processes):
    assert_same_weights(two_processes / "ddp", one_process / "trainer")
    found = load_file(two_processes / "losses.safetensors")["losses"]
    assert found.tolist() == pytest.approx(torch.load(one_process / "losses.pt"), abs=LOSS_ROUNDING)


def test_sharded_processes(one_process, two_processes):
    assert_same_weights(two_processes / "fsdp2", one_process / "by_hand")
    PeftModel.from_pretrained(build("swin-classifier"), two_processes / "fsdp2")


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_with_accumulation(one_process, tmp_path, use_reentrant):
    trainer = train_with_trainer(
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": use_reentrant},
    )
    assert_same_weights(tmp_path, one_process / "trainer")
    assert losses(trainer) == pytest.approx(torch.load(one_process / "losses.pt"), abs=LOSS_ROUNDING)


def test_resuming_is_exact(tmp_path):
    settings = {"optim": "adamw_torch", "learning_rate": 1e-3, "lr_scheduler_type": "linear", "save_strategy": "steps"}
    train_with_trainer(tmp_path / "whole", save_steps=1, **settings)
    train_with_trainer(
        tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"), **settings
    )
    assert_same_weights(tmp_path / "resumed", tmp_path / "whole", atol=0.0)
    early, late = (load_file(tmp_path / "whole" / f"checkpoint-{step}" / WEIGHTS) for step in (2, 3))
    assert any(not torch.equal(early[key], late[key]) for key in early)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2"])
def test_configurations_are_read_by_accelerate(name):
    """accelerate takes every field, and the class that FSDP wraps is that of an adapted block."""
    config = load_config_from_file(str(ACCELERATE_CONFIGS / f"{name}.yaml"))
    assert config.num_processes == 2
    wrapped = config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap") if name == "fsdp2" else None
    if wrapped:
        assert any(type(module).__name__ == wrapped for module in adapted_model().modules())
