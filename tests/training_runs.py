"""Short trainings that come out the same on one process and on several.

`torchrun -m tests.training_runs FOLDER` runs DDP and FSDP2, and with `deepspeed` behind FOLDER DeepSpeed's ZeRO-2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
import yaml
from packaging.version import Version
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from mona_peft import MonaConfig
from mona_peft.host.class_swap import swap_class
from tests.models import build, images

TOTAL_BATCH = 4
STEPS = 3
LOSSES = "losses.safetensors"

RESUMING = {
    "optim": "adamw_torch",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "save_strategy": "steps",
    "save_steps": 1,
}


def map_of_classes(row: int) -> torch.Tensor:
    """A class for each pixel of an image."""
    return torch.randint(0, 3, (64, 64), generator=torch.Generator().manual_seed(row))


def loss_of_queries(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """A loss of Mask2Former's classes and masks; its own one draws random points, other ones on every process."""
    classes = nn.functional.cross_entropy(outputs.class_queries_logits.mean(1), labels, reduction="sum")
    masks = outputs.masks_queries_logits.square().flatten(1).mean(1).sum()
    return (classes + masks) / (len(labels) if num_items_in_batch is None else num_items_in_batch)


@dataclass(frozen=True)
class Task:
    """What a model of `tests.models` is trained for.

    Attributes:
        label: Makes the label of an image from its row in the data.
        loss: Loss of the outputs and labels, as `Trainer` takes it; None is the model's own.
        learning_rate: Learning rate of plain SGD.
    """

    label: Callable[[int], torch.Tensor]
    loss: Callable[..., torch.Tensor] | None = None
    learning_rate: float = 0.05


TASKS = {
    "swin-classifier": Task(lambda row: torch.tensor(row % 3)),
    "upernet": Task(map_of_classes, learning_rate=1.0),
    "mask2former": Task(lambda row: torch.tensor(row % 3), loss_of_queries),
}


class LabelledImages(Dataset):
    """Twelve random images and their labels."""

    def __init__(self, task: Task, dtype: torch.dtype = torch.float64) -> None:
        self.task, self.images = task, images(TOTAL_BATCH * STEPS).to(dtype)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[row], "labels": self.task.label(row)}


def deepspeed_config() -> dict[str, Any]:
    """DeepSpeed's own form of our configuration of `accelerate`."""
    path = Path(__file__).parents[1] / "scripts" / "accelerate_configs" / "deepspeed_zero2.yaml"
    ours = yaml.safe_load(path.read_text())["deepspeed_config"]
    return {
        "zero_optimization": {"stage": ours["zero_stage"]},
        "gradient_accumulation_steps": ours["gradient_accumulation_steps"],
        "gradient_clipping": ours["gradient_clipping"],
        "train_micro_batch_size_per_gpu": "auto",
        "zero_allow_untested_optimizer": True,  # plain SGD
    }


class FixedStatistics:
    """Mixin of a batch norm that stays in evaluation mode: those of a share of a batch are others than the whole's."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def adapted_model(name: str = "swin-classifier") -> PeftModel:
    """An adapted model without chance, in double precision: sums in another order still come out the same."""
    model = build(name).double()
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    # Else Trainer takes UPerNet's loss, which knows nothing of `num_items_in_batch`, for a sum over all processes.
    model.accepts_loss_kwargs = False
    torch.manual_seed(0)
    config = MonaConfig(bottleneck_dim=8, dropout=0.0, init_weights=False, modules_to_save="task-head")
    model = get_peft_model(model, config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            swap_class(module, FixedStatistics)
    return model.train()


def train_with_trainer(
    name: str, folder: Path, world_size: int = 1, dtype: torch.dtype = torch.float64, **arguments
) -> Trainer:
    """Train on `Trainer` with batches of four images in all; save the adapter and the losses in `folder`."""
    task = TASKS[name]
    settings = {
        "per_device_train_batch_size": TOTAL_BATCH // world_size,
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": task.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
    }
    resume = arguments.pop("resume_from_checkpoint", None)
    trainer = Trainer(
        adapted_model(name).to(dtype),
        TrainingArguments(str(folder), **settings | arguments),
        train_dataset=LabelledImages(task, dtype),
        compute_loss_func=task.loss,
    )
    assert trainer.args.world_size == world_size
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    if trainer.is_world_process_zero():
        found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        save_file({"losses": torch.tensor(found, dtype=torch.float64)}, folder / LOSSES)
    return trainer


def train_by_hand(name: str, folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """Train with plain SGD, sharded by FSDP2 over the processes if there are several; save adapter and losses."""
    model, task = adapted_model(name), TASKS[name]
    if world_size > 1:
        for module in list(model.modules()):
            if type(module).__name__ == "SwinLayer":
                fully_shard(module)
        fully_shard(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=task.learning_rate)
    data = LabelledImages(task)
    share = TOTAL_BATCH // world_size
    losses = []
    for step in range(STEPS):
        first = step * TOTAL_BATCH + rank * share
        rows = [data[row] for row in range(first, first + share)]
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        if task.loss is None:
            loss = model(**batch).loss
        else:
            loss = task.loss(model(pixel_values=batch["pixel_values"]), batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    found = torch.stack(losses)
    if world_size > 1:
        dist.all_reduce(found)
    state = {
        key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state, is_main_process=rank == 0)
    if rank == 0:
        save_file({"losses": found / world_size}, folder / LOSSES)


def resume(folder: Path, world_size: int = 1) -> None:
    """Train a classifier as a `whole`, and once more as `resumed` from the checkpoint before its last step."""
    train_with_trainer("swin-classifier", folder / "whole", world_size, **RESUMING)
    checkpoint = str(folder / "whole" / f"checkpoint-{STEPS - 1}")
    train_with_trainer("swin-classifier", folder / "resumed", world_size, resume_from_checkpoint=checkpoint, **RESUMING)


# Trainer of older versions asks for the optimiser's state on a device "cpu:0", which torch does not know.
RESUMES_ON_SEVERAL_CPU_PROCESSES = Version(transformers.__version__) >= Version("5.23")


def main(folder: Path, engine: str = "torch") -> None:
    torch.set_num_threads(1)
    if engine == "deepspeed":  # it has no double precision
        train_with_trainer("swin-classifier", folder, 2, torch.float32, deepspeed=deepspeed_config())
        return
    for name in TASKS:
        train_with_trainer(name, folder / name / "trainer", world_size=2)
        train_by_hand(name, folder / name / "by_hand", dist.get_rank(), world_size=2)
    if RESUMES_ON_SEVERAL_CPU_PROCESSES:
        resume(folder, world_size=2)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
