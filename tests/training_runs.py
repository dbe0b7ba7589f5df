"""Short trainings that come out the same on one process and on several; `torchrun -m tests.training_runs FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import SwinConfig, SwinForImageClassification, Trainer, TrainingArguments

from mona_peft import MonaConfig
from tests.models import TWO_STAGES, images

TOTAL_BATCH = 4
STEPS = 3


class LabelledImages(Dataset):
    """Twelve random images of three classes."""

    def __init__(self) -> None:
        self.images = images(TOTAL_BATCH * STEPS).double()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[row], "labels": torch.tensor(row % 3)}


def adapted_model() -> PeftModel:
    """An adapted classifier without chance, in double precision: sums in another order still come out the same."""
    torch.manual_seed(0)
    model = SwinForImageClassification(SwinConfig(**TWO_STAGES, drop_path_rate=0.0)).double()
    config = MonaConfig(dropout=0.0, init_weights=False, modules_to_save="task-head")
    return get_peft_model(model, config).train()


def train_with_trainer(folder: Path, world_size: int = 1, **arguments) -> Trainer:
    """Train on `Trainer` with batches of four images in all, and save the adapter in `folder`."""
    settings = {
        "per_device_train_batch_size": TOTAL_BATCH // world_size,
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": 0.05,
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
        adapted_model(), TrainingArguments(str(folder), **settings | arguments), train_dataset=LabelledImages()
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train_by_hand(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """Train with plain SGD, sharded by FSDP2 over the processes if there are several, and save the adapter."""
    model = adapted_model()
    if world_size > 1:
        for module in list(model.modules()):
            if type(module).__name__ == "SwinLayer":
                fully_shard(module)
        fully_shard(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    data = LabelledImages()
    share = TOTAL_BATCH // world_size
    for step in range(STEPS):
        first = step * TOTAL_BATCH + rank * share
        rows = [data[row] for row in range(first, first + share)]
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {
        key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state, is_main_process=rank == 0)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = train_with_trainer(folder / "ddp", world_size=2)
    assert trainer.args.world_size == 2
    rank = dist.get_rank()
    if rank == 0:
        save_file({"losses": torch.tensor(losses(trainer))}, folder / "losses.safetensors")
    dist.barrier()
    train_by_hand(folder / "fsdp2", rank, world_size=2)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
