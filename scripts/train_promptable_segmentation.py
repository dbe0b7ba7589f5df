"""Fine-tunes SAM, SAM 2 or SAM 3's tracker on masks, with prompts derived from them, by Mona on transformers' Trainer.

    python -m scripts.train_promptable_segmentation --model facebook/sam-vit-base --dataset FOLDER \\
        --output_dir outputs/sam --num_train_epochs 5 --learning_rate 1e-4

The model learns to give the mask of an object that a box or a point tells of. Data are those of instance segmentation:
objects with masks, in COCO's format for instance; without `--dataset` scenes of handwritten digits. Classes play no
part. The image encoder gets Mona, and the mask decoder is trained whole; the prompt encoder stays as it is.

This is all that a training takes, to read and to copy: data, model, loss and `Trainer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from datasets import DatasetDict
from peft import PeftModel, get_peft_model
from scipy.ndimage import distance_transform_edt
from torch.nn import functional
from transformers import (
    AutoModelForMaskGeneration,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)
from transformers.loss.loss_for_object_detection import dice_loss
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mona_peft import MonaConfig
from mona_peft.cli.errors import run_module
from mona_peft.tasks.data.arguments import keep_decoding
from mona_peft.tasks.data.augmentation import Sample, augmentation
from mona_peft.tasks.data.dataset import ImageDataset
from mona_peft.tasks.data.objects.check import decode_masks
from mona_peft.tasks.data.objects.loading import ObjectDataArguments, load_objects
from mona_peft.tasks.training.trainer import WholeModelTrainer
from scripts.demonstration.scene_objects import digit_scenes

LABEL_SIDE = 256
"""Masks are compared in squares of so many pixels: as large as SAM and SAM 2 give them."""

JITTER = 0.1
"""Training: standard deviation by which edges of boxes are moved, as a share of the side (SAM, arXiv:2304.02643)."""

PADDING = -1
"""Label of an object that fills up a batch and does not count."""


@dataclass
class PromptArguments:
    """The model, its prompts, and the width of Mona."""

    model_name_or_path: str = field(metadata={"aliases": ["--model"], "help": "SAM, SAM 2 or SAM 3's tracker."})
    prompts: Literal["boxes", "points"] = field(default="boxes", metadata={"help": "What tells of an object."})
    objects_per_image: int = field(default=8, metadata={"help": "Training: as many are drawn of an image at most."})
    bottleneck_dim: int = field(default=64, metadata={"help": "Width of Mona's bottleneck."})


def box_prompts(masks: np.ndarray, random: Random | None = None) -> np.ndarray:
    """Returns the box of each mask, left, top, right and bottom edge in pixels: (N, 4), moved a little by `random`.

    Args:
        masks: (N, H, W) bool, none of them empty.
        random: Source of random numbers, in training.
    """
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
        if random is not None:
            box += [JITTER * side * random.gauss(0, 1) for side in [*(box[2:] - box[:2])] * 2]
        box = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])
        boxes.append(box.clip(0, [mask.shape[1], mask.shape[0]] * 2))
    return np.stack(boxes)


def point_prompts(masks: np.ndarray, random: Random | None = None) -> np.ndarray:
    """Returns a point in each mask, x and y in pixels: (N, 2), drawn by `random` or else farthest from the mask's edge.

    Args:
        masks: (N, H, W) bool, none of them empty.
        random: Source of random numbers, in training.
    """
    points = []
    for mask in masks:
        if random is not None:
            row, column = random.choice(np.argwhere(mask).tolist())
        else:
            depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
        points.append([column + 0.5, row + 0.5])
    return np.array(points)


class PromptedMasks(ImageDataset):
    """Images with prompts and the masks that they are for.

    Args:
        prompts: `boxes` or `points`.
        most: As many objects are drawn of an image at most; None takes all of them, with prompts that are not random.
        arguments: Of `ImageDataset`, with rows in the form of `data.objects.loading`.
    """

    def __init__(self, *arguments: Any, prompts: str, most: int | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.prompts, self.most = prompts, most

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row, random = self.rows[index], None if self.most is None else self.random(index)
        image, objects = self.decode(row, index), row["objects"]
        masks = decode_masks(objects, row["width"], row["height"])[~np.array(objects["iscrowd"], dtype=bool)]
        if self.augmentation is not None:
            changed = self.augmentation(Sample(image, maps=masks), self.random(index))
            if changed.maps.any():
                image, masks = changed.image, changed.maps
        masks = masks[masks.any((1, 2))]
        if random is not None and len(masks) > self.most:
            masks = masks[random.sample(range(len(masks)), self.most)]
        inputs = self.image_processor(image, return_tensors="pt")
        filled = inputs["pixel_values"].shape[-2:]
        # SAM fills images up to a square, below and to the right; SAM 2 and 3 stretch them.
        height, width = inputs.get("reshaped_input_sizes", [filled])[0]
        scale = torch.tensor([int(width) / image.width, int(height) / image.height])
        shares = [int(side) / whole for side, whole in zip((height, width), filled, strict=True)]
        label_size = [max(1, round(LABEL_SIDE * share)) for share in shares]
        labels = functional.interpolate(torch.from_numpy(masks)[None].float(), size=label_size, mode="nearest-exact")[0]
        labels = functional.pad(labels, (0, LABEL_SIDE - label_size[1], 0, LABEL_SIDE - label_size[0]))
        if self.prompts == "boxes":
            prompt = {"input_boxes": torch.from_numpy(box_prompts(masks, random)).float() * scale.repeat(2)}
        else:
            prompt = {"input_points": (torch.from_numpy(point_prompts(masks, random)).float() * scale)[:, None]}
        return {"pixel_values": inputs["pixel_values"][0], **prompt, "labels": labels.to(torch.int8)}


def collate(samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Makes a batch: images with fewer objects than others get their first prompt again, with labels of `PADDING`."""
    most = max(len(sample["labels"]) for sample in samples)
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    for name in samples[0].keys() - batch.keys():
        parts = []
        for sample in samples:
            first = sample[name][:1] if name != "labels" else torch.full_like(sample[name][:1], PADDING)
            parts.append(torch.cat([sample[name], first.expand(most - len(sample[name]), *first.shape[1:])]))
        batch[name] = torch.stack(parts)
    return batch


def overlaps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the intersection over union of masks, (N,), from their logits and labels, (N, H, W)."""
    found, truth = logits.flatten(1) > 0, labels.flatten(1) > 0
    return (found & truth).sum(1) / (found | truth).sum(1).clamp(min=1)


class PromptTrainer(WholeModelTrainer):
    """`Trainer` with the loss of MedSAM (arXiv:2304.12306); its predictions are the overlaps of masks."""

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Computes dice loss, cross entropy, and the error of the overlap that the model foresees."""
        labels = inputs.pop("labels")
        outputs = model(**inputs, multimask_output=False)  # one mask a prompt: (B, N, 1, h, w)
        counted = labels[:, :, 0, 0] != PADDING
        masks = functional.interpolate(
            outputs.pred_masks[:, :, 0].float(), size=labels.shape[-2:], mode="bilinear", align_corners=False
        )
        logits, truth = masks[counted].flatten(1), labels[counted].flatten(1).float()
        found = overlaps(masks[counted], labels[counted])
        loss = dice_loss(logits, truth, len(logits)) + functional.binary_cross_entropy_with_logits(logits, truth)
        loss = loss + functional.mse_loss(outputs.iou_scores[:, :, 0][counted].float(), found)
        if not return_outputs:
            return loss
        shares = found.new_full(counted.shape, PADDING)
        shares[counted] = found
        return loss, {"overlaps": shares}

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *arguments: Any, **more: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the loss, the overlaps (B, N), and these again in place of labels, which would fill the memory."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
        return loss.detach(), outputs["overlaps"], outputs["overlaps"]


def mean_overlap(prediction: EvalPrediction) -> dict[str, float]:
    """Returns the mean of the overlaps of all objects."""
    shares = prediction.predictions
    return {"mean_iou": float(shares[shares >= 0].mean())}


def load_data(args: ObjectDataArguments, seed: int) -> DatasetDict:
    """Loads objects with masks, or scenes of handwritten digits; says how many images have none and are left out."""
    given = args.dataset is not None or args.annotations
    splits = load_objects(args, seed, with_masks=True) if given else digit_scenes()
    kept = splits.filter(lambda objects: not all(objects["iscrowd"]), input_columns="objects")
    for name, rows in splits.items():
        if len(rows) > len(kept[name]):
            print(f"{len(rows) - len(kept[name])} of {len(rows)} images of {name} have no object and are left out.")
    return kept


def adapt(model: PreTrainedModel, bottleneck_dim: int) -> PeftModel:
    """Adapts the image encoder with Mona; the mask decoder is trained whole."""
    return get_peft_model(model, MonaConfig(bottleneck_dim=bottleneck_dim, modules_to_save=["mask_decoder"]))


def train(prompt_args: PromptArguments, data_args: ObjectDataArguments, args: TrainingArguments) -> dict[str, float]:
    """Trains, saves adapter and image processor to the output directory; returns overlap and loss before and after."""
    set_seed(args.seed)
    splits = load_data(data_args, args.seed)
    name = prompt_args.model_name_or_path
    image_processor = AutoImageProcessor.from_pretrained(name)
    keep_decoding(image_processor, splits, data_args)
    model = adapt(AutoModelForMaskGeneration.from_pretrained(name, dtype=torch.float32), prompt_args.bottleneck_dim)
    changes = augmentation(data_args.augmentation, data_args.horizontal_flip)
    common = {"image_processor": image_processor, "prompts": prompt_args.prompts, "seed": args.seed}
    images = PromptedMasks(splits["train"], **common, augmentation=changes, most=prompt_args.objects_per_image)
    args.remove_unused_columns, args.label_names = False, ["labels"]
    trainer = PromptTrainer(
        model=model,
        args=args,
        train_dataset=images,
        eval_dataset=PromptedMasks(splits["validation"], **common),
        data_collator=collate,
        compute_metrics=mean_overlap,
    )
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    after = trainer.evaluate()
    trainer.save_model()
    image_processor.save_pretrained(args.output_dir)
    results = {}
    for name in ("mean_iou", "loss"):
        results |= {f"{name}_before": before[f"eval_{name}"], name: after[f"eval_{name}"]}
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    parser = HfArgumentParser((PromptArguments, ObjectDataArguments, TrainingArguments))
    print(train(*parser.parse_args_into_dataclasses(argv)))


if __name__ == "__main__":
    run_module(main)
