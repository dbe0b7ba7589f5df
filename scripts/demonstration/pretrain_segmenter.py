"""Pre-trains the demonstration segmenter, a small Mask2Former, on scenes of printed symbols over photographs.

It learns first to find them, all as one class, and then to tell them apart:

    python -m scripts.demonstration.pretrain_segmenter
    python -m scripts.demonstration.pretrain_segmenter --start_from outputs/demonstration_segmenter/segmenter \\
        --max_steps 300 --learning_rate 5e-4 --warmup_steps 50 --lr_scheduler_kwargs '{"num_decay_steps": 100}' \\
        --output_dir outputs/demonstration_segmenter_classes

About 20 minutes on one CPU core that computes bfloat16. `--resume_from_checkpoint last` goes on after an interruption,
and with a smaller `--max_steps` comes to an end earlier. All arguments of `transformers.TrainingArguments` work. The
result, as stored in `scripts/demonstration/segmenter`, is written to `segmenter/` in the output directory: weights in
float16, the image processor, and a card.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    BaseImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinBackbone,
    SwinConfig,
    set_seed,
)
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from scripts.common.coco_evaluation import BOXES_AND_MASKS, CocoTrainer
from scripts.common.instance_masks import InstanceDataset, collate_instances, find_instances, prepare_instances
from scripts.common.run import task_metrics
from scripts.common.run_directory import find_checkpoint
from scripts.common.tasks import INSTANCE_SEGMENTATION
from scripts.demonstration.pretraining import Stopwatch, num_pictures, parse_with, save_demonstration_model
from scripts.demonstration.scene_objects import scene_rows
from scripts.demonstration.scenes import IMAGE_SIZE, SymbolScenes

BACKBONE = Path(__file__).parent / "backbone"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
WIDTH = 64
RAMP = (0, 10_000)
"""Numbers of the scenes between which they grow harder."""

NUM_EVALUATION_SCENES = 500
ONE_CLASS = ["symbol"]
"""Classes of the first stage. With a class for each of the 110 symbols from the start, half as much was found after as
many steps. Symbols that are only found, not told apart, leave nothing to recognise digits by, though."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_segmenter",
    "max_steps": 2000,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 50,
    "learning_rate": 7e-4,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": '{"num_decay_steps": 250}',
    "warmup_steps": 100,
    "save_steps": 250,
}

CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: image-segmentation
tags: [mask2former, swin, instance-segmentation]
---

# Demonstration segmenter

A Mask2Former of {parameters:,} parameters around the demonstration backbone, for scenes of 96 x 96 pixels. It finds
printed symbols and tells them apart, knows no digits, and exists to be adapted to them: by
`scripts/train_instance_segmentation.py`, its tests and the comparisons of mona-peft.

- **Data**: scenes of one to four of {num_classes} characters in {num_fonts} fonts that ship with matplotlib, of various
  sizes and colours, overlapping, over crops of {num_photographs} photographs that ship with scikit-image
  ({photographs}). Every scene is drawn anew.
- **Training**: from `scripts/demonstration/backbone`, all parameters, in two stages on CPU threads that other work
  shared. The first finds symbols, all as one class (`training_first_stage.json`); the second, {steps:,} steps of
  {batch_size} with seed {seed} in {minutes:.0f} minutes, has a class for each (`training.json`). The docstring of
  `scripts/demonstration/pretrain_segmenter.py` has the commands.
- **Average precision** after the last stage, on scenes drawn with another seed, from the same fonts and photographs:
  masks {mask_ap:.3f} (AP50 {mask_ap50:.3f}), boxes {box_ap:.3f} (AP50 {box_ap50:.3f}).
- **Files**: the weights are stored in float16 and loaded in float32.
"""


@dataclass
class StageArguments:
    """Which stage of the pre-training."""

    start_from: str | None = field(
        default=None,
        metadata={"help": "Folder of the first stage's result, for the second stage. Without it: the first stage."},
    )


class SymbolInstances(Dataset):
    """A range of `SymbolScenes`, drawn anew each time, as Mask2Former takes them.

    Args:
        scenes: The scenes.
        length: How many.
        image_processor: Of the model.
        class_of: Class of the model for each class of the scenes.
    """

    def __init__(
        self, scenes: SymbolScenes, length: int, image_processor: BaseImageProcessor, class_of: np.ndarray
    ) -> None:
        self.scenes = scenes
        self.length = length
        self.image_processor = image_processor
        self.class_of = class_of

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scene = self.scenes.scene(index)
        return prepare_instances(scene.image, scene.masks, self.class_of[scene.classes], self.image_processor)


def build_model() -> Mask2FormerForUniversalSegmentation:
    """Returns the model: the demonstration backbone, and a head with random weights."""
    backbone = SwinConfig.from_pretrained(BACKBONE, out_features=STAGES)
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=WIDTH,
        mask_feature_size=WIDTH,
        hidden_dim=WIDTH,
        encoder_feedforward_dim=2 * WIDTH,
        dim_feedforward=2 * WIDTH,
        encoder_layers=1,
        decoder_layers=4,  # three, and the queries themselves
        num_attention_heads=4,
        num_queries=12,
        train_num_points=1024,
        id2label=dict(enumerate(ONE_CLASS)),
        label2id={name: number for number, name in enumerate(ONE_CLASS)},
    )
    model = Mask2FormerForUniversalSegmentation(config)
    model.model.pixel_level_module.encoder = SwinBackbone.from_pretrained(BACKBONE, config=backbone)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    stage, args = parse_with([StageArguments], argv, DEFAULTS)
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    image_processor = Mask2FormerImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, ignore_index=255
    )
    if stage.start_from is None:
        classes, class_of = ONE_CLASS, np.zeros(len(SymbolScenes.classes), dtype=np.int64)
        model, scenes = build_model(), SymbolScenes(seed=args.seed, ramp=RAMP)
    else:
        classes, class_of = SymbolScenes.classes, np.arange(len(SymbolScenes.classes))
        labels = {
            "id2label": dict(enumerate(classes)),
            "label2id": {name: number for number, name in enumerate(classes)},
        }
        model = Mask2FormerForUniversalSegmentation.from_pretrained(
            stage.start_from, **labels, ignore_mismatched_sizes=True, dtype=torch.float32
        )
        scenes = SymbolScenes(seed=args.seed + 2)
    rows = scene_rows(SymbolScenes(seed=args.seed + 1), range(NUM_EVALUATION_SCENES), classes, class_of.tolist())
    trainer = CocoTrainer(
        model=model,
        args=args,
        train_dataset=SymbolInstances(scenes, num_pictures(args), image_processor, class_of),
        eval_dataset=InstanceDataset(rows, image_processor),
        data_collator=collate_instances,
        processing_class=image_processor,
        callbacks=[Stopwatch()],
        detect=partial(find_instances, image_processor),
        kinds=BOXES_AND_MASKS,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    results = task_metrics(INSTANCE_SEGMENTATION, trainer.evaluate(), "eval")
    folder = Path(args.output_dir, "segmenter")
    save_demonstration_model(folder, trainer, image_processor, results, CARD)
    if stage.start_from is not None and trainer.is_world_process_zero():
        shutil.copy(Path(stage.start_from, "training.json"), folder / "training_first_stage.json")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
