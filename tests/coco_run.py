"""Evaluation of a small detector, the same on one process and on several; `torchrun -m tests.coco_run FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from scripts.common.coco_data import ObjectDataArguments, load_objects
from scripts.common.coco_evaluation import BOXES_AND_MASKS, CocoTrainer
from tests.folders import write_coco

IMAGES = 7  # neither two processes nor batches of two divide it


class Images(Dataset):
    def __init__(self, rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> int:
        return row


class Echo(nn.Module):
    """Returns what it is given, and something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, labels: torch.Tensor, return_loss: bool = True) -> dict[str, torch.Tensor]:
        return {"loss": self.scale * labels.float().mean(), "rows": labels}


def evaluate(folder: Path, output_dir: Path) -> dict[str, float]:
    """Evaluate detections that are right in some images, shifted in others, doubled in one and missing in one."""
    rows = load_objects(ObjectDataArguments(dataset=str(folder)), 0, with_masks=True)["train"]

    def detect(outputs, batch):
        return {rows[row]["image_id"]: found(rows[row], row) for row in outputs["rows"].tolist()}

    def found(row, number):
        objects, entries = row["objects"], []
        for index, (left, top, width, height) in enumerate(objects["bbox"]):
            entry = {
                "bbox": [left + number, top, width, height],
                "category_id": objects["category"][index],
                "score": 1 / (2 + number),
                "segmentation": {"size": [row["height"], row["width"]], "counts": objects["mask"][index].encode()},
            }
            entries += [] if number == 3 else [entry] * (1 + (number == 2))
        return entries

    args = TrainingArguments(
        str(output_dir), per_device_eval_batch_size=2, use_cpu=True, report_to="none", disable_tqdm=True,
        label_names=["labels"], remove_unused_columns=False,
    )  # fmt: skip
    trainer = CocoTrainer(
        Echo(), args, eval_dataset=Images(rows), detect=detect, kinds=BOXES_AND_MASKS,
        data_collator=lambda rows: {"labels": torch.tensor(rows)},
    )  # fmt: skip
    metrics = trainer.evaluate()
    return {name: value for name, value in metrics.items() if "ap" in name}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    metrics = evaluate(folder / "data", folder / "run")
    (folder / f"metrics{dist.get_rank()}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


def write_data(folder: Path) -> None:
    write_coco(folder, train=IMAGES, val=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
