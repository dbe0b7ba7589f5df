"""Pre-trains the demonstration model for semantic segmentation, a small UPerNet, on scenes of printed letters.

    python -m scripts.demonstration.pretrain_semantic_segmenter

About a quarter of an hour on one CPU core that computes bfloat16. `--resume_from_checkpoint last` goes on after an
interruption, and with a smaller `--max_steps` comes to an end earlier: the learning rate is constant but for the last
steps. All arguments of `transformers.TrainingArguments` work. The result, as stored in
`scripts/demonstration/semantic_segmenter`, is written to `semantic_segmenter/` in the output directory: weights in
float16, the image processor, and a card.
"""

import json
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.segmentation.dataset import (
    IGNORE_INDEX,
    EvaluationImages,
    ScaleAndCrop,
    collate,
    model_inputs,
)
from mona_peft.tasks.data.segmentation.loading import BACKGROUND
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.segmentation.evaluation import SegmentationMetrics, SemanticSegmentationTrainer
from mona_peft.tasks.task import SEMANTIC_SEGMENTATION
from scripts.demonstration.pretraining import (
    BACKBONE,
    SCENES_CARD,
    LetterSceneInputs,
    Stopwatch,
    optimizer_with_slow_backbone,
    pretrain,
    training_card,
)
from scripts.demonstration.scene_class_maps import scene_maps
from scripts.demonstration.scenes import IMAGE_SIZE, LetterScenes, Scene

CLASSES = [BACKGROUND, *LetterScenes.classes]
NUM_EVALUATION_SCENES = 500
RAMP = (4_000, 16_000)
"""Numbers of the scenes between which they grow harder."""

CROP = ScaleAndCrop(
    image_size=IMAGE_SIZE, scales=(1.0, 1.0), crop_size=64, flip=False, max_class_share=0.85, fill=(128, 128, 128)
)
"""Of scenes, in training: nine tenths of a whole scene are background."""

CONFIG = {"hidden_size": 64, "auxiliary_channels": 16}
"""Settings of the UPerNet around the demonstration backbone."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_semantic_segmenter",
    "max_steps": 2000,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 50,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": '{"num_decay_steps": 500}',
    "warmup_steps": 100,
    "batch_eval_metrics": True,
    "label_names": ["labels"],
    "eval_strategy": "steps",
    "eval_steps": 500,
    "save_steps": 250,
}

CARD = f"""---
library_name: transformers
license: apache-2.0
pipeline_tag: image-segmentation
tags: [upernet, swin, semantic-segmentation]
---

# Demonstration model for semantic segmentation

A UPerNet of {{parameters:,}} parameters around the demonstration backbone, for scenes of {IMAGE_SIZE} x {IMAGE_SIZE}
pixels. It says of every pixel whether it shows a printed capital letter, and which. It knows no digits, and
exists to be adapted to them: by `scripts/train_semantic_segmentation.py`, its tests and the comparisons of mona-peft.

{SCENES_CARD}
- **Metrics** on {NUM_EVALUATION_SCENES} scenes drawn with another seed, from the same fonts and photographs: mIoU
  {{mean_iou:.3f}} over {len(CLASSES)} classes, background counted, pixel accuracy {{pixel_accuracy:.3f}}.
{training_card("pretrain_semantic_segmenter")}
"""


def training_inputs(image_processor: SegformerImageProcessorPil, scene: Scene, number: int) -> dict[str, torch.Tensor]:
    """Returns what the model takes of a crop of a scene; its place follows from the scene's number."""
    return model_inputs(image_processor, *CROP(scene.image, scene.class_map, Random(number)))


def build_model() -> PreTrainedModel:
    """Returns UPerNet with a new head around the demonstration backbone."""
    args = DenseModelArguments(backbone=BACKBONE, model_type="upernet", model_config=json.dumps(CONFIG))
    model = load_dense_model(SEMANTIC_SEGMENTATION, args, CLASSES)
    return model


def make_trainer(args: TrainingArguments, model: PreTrainedModel | None = None) -> SemanticSegmentationTrainer:
    """Returns the trainer of a model; without one, of a new one."""
    model = model or build_model()
    image_processor = SegformerImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    image_processor.ignore_index = IGNORE_INDEX
    scenes = map(LetterScenes(seed=args.seed + 1).scene, range(NUM_EVALUATION_SCENES))
    rows = scene_maps((scene.image, scene.class_map) for scene in scenes)
    return SemanticSegmentationTrainer(
        model=model,
        args=args,
        train_dataset=LetterSceneInputs(args, RAMP, partial(training_inputs, image_processor)),
        eval_dataset=EvaluationImages(
            rows,
            num_classes=len(CLASSES),
            image_processor=image_processor,
            image_size=IMAGE_SIZE,
        ),
        data_collator=collate,
        processing_class=image_processor,
        compute_metrics=SegmentationMetrics(CLASSES),
        callbacks=[Stopwatch()],
        optimizers=(optimizer_with_slow_backbone(model, args), None),
        num_classes=len(CLASSES),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    pretrain(argv, DEFAULTS, make_trainer, SEMANTIC_SEGMENTATION, "semantic_segmenter", CARD)


if __name__ == "__main__":
    main()
