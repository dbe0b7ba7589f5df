"""Pre-trains the demonstration detector, a small RT-DETR, on scenes of printed letters over photographs.

    python -m scripts.demonstration.pretrain_detector

About 40 minutes on one CPU core that computes bfloat16. `--resume_from_checkpoint last` goes on after an
interruption, and with a smaller `--max_steps` comes to an end earlier: the learning rate is constant but for the last
steps. All arguments of `transformers.TrainingArguments` work. The result, as stored in
`scripts/demonstration/detector`, is written to `detector/` in the output directory: weights in float16, the image
processor, and a card.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedModel, RTDetrImageProcessorPil, TrainingArguments

from mona_peft.tasks.data.objects.detection import ObjectDetectionDataset, collate, detector_inputs
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.objects.evaluation import CocoTrainer, box_detections
from mona_peft.tasks.task import OBJECT_DETECTION
from scripts.demonstration.pretraining import (
    BACKBONE,
    SCENES_CARD,
    LetterSceneInputs,
    Stopwatch,
    optimizer_with_slow_backbone,
    pretrain,
    training_card,
)
from scripts.demonstration.scene_objects import scene_objects, scene_rows
from scripts.demonstration.scenes import IMAGE_SIZE, LetterScenes, Scene

NUM_EVALUATION_SCENES = 400
RAMP = (2_000, 16_000)
"""Numbers of the scenes between which they grow harder."""

CONFIG = {
    "encoder_hidden_dim": 64,
    "encoder_layers": 1,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.5,
    "d_model": 64,
    "decoder_in_channels": [64] * 3,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "num_queries": 30,
    "num_denoising": 20,
}
"""Settings of the RT-DETR around the demonstration backbone."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_detector",
    "max_steps": 3050,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 50,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": '{"num_decay_steps": 800}',
    "warmup_steps": 100,
    "weight_decay": 1e-4,
    "label_names": ["labels"],
    "save_steps": 250,
    "logging_steps": 100,
}

CARD = f"""---
library_name: transformers
license: apache-2.0
pipeline_tag: object-detection
tags: [rt_detr, swin, object-detection]
---

# Demonstration detector

An RT-DETR of {{parameters:,}} parameters around the demonstration backbone, for scenes of {IMAGE_SIZE} x {IMAGE_SIZE}
pixels. It finds printed capital letters and tells them apart. It knows no digits, and exists to be adapted to them: by
`scripts/train_object_detection.py`, its tests and the comparisons of mona-peft.

{SCENES_CARD}
- **Average precision** of boxes on {NUM_EVALUATION_SCENES} scenes drawn with another seed, from the same fonts and
  photographs: {{box_ap:.3f}} (AP50 {{box_ap50:.3f}}).
{training_card("pretrain_detector")}
"""


def training_inputs(image_processor: RTDetrImageProcessorPil, scene: Scene, number: int) -> dict[str, Any]:
    """Returns what the model takes of a scene."""
    return detector_inputs(image_processor, scene.image, number, scene_objects(scene, with_masks=False))


def build_model() -> PreTrainedModel:
    """Returns the detector with a new head around the demonstration backbone."""
    args = DenseModelArguments(backbone=BACKBONE, model_type="rt_detr", model_config=json.dumps(CONFIG))
    model = load_dense_model(OBJECT_DETECTION, args, list(LetterScenes.classes))
    return model


def build_image_processor() -> RTDetrImageProcessorPil:
    """Returns the processor of scenes: the size of the pictures, and the normalisation that the backbone knows."""
    values = [0.5, 0.5, 0.5]
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return RTDetrImageProcessorPil(size=size, do_normalize=True, image_mean=values, image_std=values)


def make_trainer(args: TrainingArguments, model: PreTrainedModel | None = None) -> CocoTrainer:
    """Returns the trainer of a model; without one, of a new one."""
    model = model or build_model()
    image_processor = build_image_processor()
    scenes = scene_rows(
        LetterScenes(seed=args.seed + 1), range(NUM_EVALUATION_SCENES), list(LetterScenes.classes), with_masks=False
    )
    return CocoTrainer(
        model=model,
        args=args,
        train_dataset=LetterSceneInputs(args, RAMP, partial(training_inputs, image_processor)),
        eval_dataset=ObjectDetectionDataset(scenes, image_processor),
        data_collator=collate,
        processing_class=image_processor,
        callbacks=[Stopwatch()],
        detect=partial(box_detections, image_processor),
        optimizers=(optimizer_with_slow_backbone(model, args), None),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    pretrain(argv, DEFAULTS, make_trainer, OBJECT_DETECTION, "detector", CARD)


if __name__ == "__main__":
    main()
