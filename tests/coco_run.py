"""Evaluation and losses of small detectors, alike on one process and several; `torchrun -m tests.coco_run FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from mona_peft.tasks.data.objects.loading import ObjectDataArguments, load_objects
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, CocoTrainer
from tests import composed, models
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


def losses(output_dir: Path, images: slice) -> dict[str, float]:
    """Losses of tiny models, without dropout, on some of four images with two objects each."""
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.rand(4, 3, 64, 64, generator=generator)[images]
    masks = list((torch.rand(4, 2, 64, 64, generator=generator) > 0.7).float()[images])
    boxes = list((torch.rand(4, 2, 4, generator=generator) * 0.4 + 0.2)[images])
    classes = [torch.tensor([0, 1])] * len(pixel_values)
    labels = [{"class_labels": label, "boxes": box} for label, box in zip(classes, boxes, strict=True)]
    args = TrainingArguments(str(output_dir), use_cpu=True, report_to="none", disable_tqdm=True)
    values = {}
    for build, inputs in (
        (models.maskformer, {"mask_labels": masks, "class_labels": classes}),
        (composed.deformable_detr, {"labels": labels}),
    ):
        torch.manual_seed(0)
        model = build().eval()
        trainer = CocoTrainer(model, args, detect=None)
        values[build.__name__] = trainer.compute_loss(model, {"pixel_values": pixel_values, **inputs}).item()
    return values


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    metrics, rank = evaluate(folder / "data", folder / "run"), dist.get_rank()
    (folder / f"metrics{rank}.json").write_text(json.dumps(metrics))
    (folder / f"losses{rank}.json").write_text(json.dumps(losses(folder / "run", slice(2 * rank, 2 * rank + 2))))
    dist.destroy_process_group()


def write_data(folder: Path) -> None:
    write_coco(folder, train=IMAGES, val=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
