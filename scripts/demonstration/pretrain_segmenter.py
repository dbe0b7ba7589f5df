"""Pre-trains the demonstration segmenter, a small Mask2Former, on scenes of printed letters over photographs.

    python -m scripts.demonstration.pretrain_segmenter

About an hour on one CPU core that computes bfloat16. `--resume_from_checkpoint last` goes on after an interruption,
and with a smaller `--max_steps` comes to an end earlier: the learning rate is constant but for the last steps. All
arguments of `transformers.TrainingArguments` work. The result, as stored in `scripts/demonstration/segmenter`, is
written to `segmenter/` in the output directory: weights in float16, the image processor, and a card.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import BaseImageProcessor, Mask2FormerImageProcessorPil, PreTrainedModel, TrainingArguments

from mona_peft.tasks.data.objects.instances import InstanceDataset, collate_instances, prepare_instances
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, CocoTrainer, find_instances
from mona_peft.tasks.task import INSTANCE_SEGMENTATION
from scripts.demonstration.pretraining import (
    BACKBONE,
    SCENES_CARD,
    LetterSceneInputs,
    Stopwatch,
    optimizer_with_slow_backbone,
    pretrain,
    training_card,
)
from scripts.demonstration.scene_objects import scene_rows
from scripts.demonstration.scenes import IMAGE_SIZE, LetterScenes, Scene

RAMP = (0, 10_000)
"""Numbers of the scenes between which they grow harder."""

NUM_EVALUATION_SCENES = 500

CONFIG = {
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 128,
    "dim_feedforward": 128,
    "encoder_layers": 1,
    # Six, and the queries themselves: twice over the three maps. A query attends where the layer before saw its object,
    # which the first three layers see badly, and on coarse maps not at all; what the object is, the next three find.
    "decoder_layers": 7,
    "num_attention_heads": 4,
    "num_queries": 12,
    "train_num_points": 1024,
    # With the usual 0.1, meant for 100 queries, half of these few would claim objects that others have found.
    "no_object_weight": 0.5,
    "class_weight": 4.0,
}
"""Settings of the Mask2Former around the demonstration backbone."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_segmenter",
    "max_steps": 7500,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 50,
    "learning_rate": 1.5e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": '{"num_decay_steps": 2000}',
    "warmup_steps": 100,
    "save_steps": 250,
    "logging_steps": 100,
}

CARD = f"""---
library_name: transformers
license: apache-2.0
pipeline_tag: image-segmentation
tags: [mask2former, swin, instance-segmentation]
---

# Demonstration segmenter

A Mask2Former of {{parameters:,}} parameters around the demonstration backbone, for scenes of {IMAGE_SIZE} x
{IMAGE_SIZE} pixels. It finds printed capital letters and tells them apart. It knows no digits, and exists to
be adapted to them: by `scripts/train_instance_segmentation.py`, its tests and the comparisons of mona-peft.

{SCENES_CARD}
- **Average precision** on {NUM_EVALUATION_SCENES} scenes drawn with another seed, from the same fonts and photographs:
  masks {{mask_ap:.3f}} (AP50 {{mask_ap50:.3f}}), boxes {{box_ap:.3f}} (AP50 {{box_ap50:.3f}}).
{training_card("pretrain_segmenter")}
"""


def training_inputs(image_processor: BaseImageProcessor, scene: Scene, number: int) -> dict[str, torch.Tensor]:
    """Returns what the model takes of a scene."""
    return prepare_instances(scene.image, scene.masks, scene.classes, image_processor)


def build_model() -> PreTrainedModel:
    """Returns the segmenter with a new head around the demonstration backbone."""
    args = DenseModelArguments(backbone=BACKBONE, model_type="mask2former", model_config=json.dumps(CONFIG))
    model = load_dense_model(INSTANCE_SEGMENTATION, args, list(LetterScenes.classes))
    return model


def make_trainer(args: TrainingArguments, model: PreTrainedModel | None = None) -> CocoTrainer:
    """Returns the trainer of a model; without one, of a new one."""
    model = model or build_model()
    image_processor = Mask2FormerImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, ignore_index=255
    )
    rows = scene_rows(LetterScenes(seed=args.seed + 1), range(NUM_EVALUATION_SCENES), list(LetterScenes.classes))
    return CocoTrainer(
        model=model,
        args=args,
        train_dataset=LetterSceneInputs(args, RAMP, partial(training_inputs, image_processor)),
        eval_dataset=InstanceDataset(rows, image_processor),
        data_collator=collate_instances,
        processing_class=image_processor,
        callbacks=[Stopwatch()],
        detect=partial(find_instances, image_processor),
        kinds=BOXES_AND_MASKS,
        optimizers=(optimizer_with_slow_backbone(model, args), None),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    pretrain(argv, DEFAULTS, make_trainer, INSTANCE_SEGMENTATION, "segmenter", CARD)


if __name__ == "__main__":
    main()
