"""Pre-trains the demonstration detector, a small RT-DETR, on scenes of printed symbols over photographs.

    python -m scripts.demonstration.pretrain_detector

About an hour on one CPU core that computes bfloat16. `--resume_from_checkpoint last` goes on after an interruption, and
with a smaller `--max_steps` comes to an end earlier: the learning rate is constant but for the last steps. All
arguments of `transformers.TrainingArguments` work. The result, as stored in `scripts/demonstration/detector`, is
written to `detector/` in the output directory: weights in float16, the image processor, and a card.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import HfArgumentParser, PreTrainedModel, RTDetrImageProcessorPil, TrainingArguments, set_seed

from scripts.common.arguments import recipe
from scripts.common.backbones import DenseModelArguments, load_dense_model
from scripts.common.coco_evaluation import CocoTrainer, box_detections
from scripts.common.object_dataset import ObjectDetectionDataset, collate, detector_inputs
from scripts.common.records import hardware, software, write_json
from scripts.common.run import task_metrics
from scripts.common.run_directory import find_checkpoint, replace_directory
from scripts.common.tasks import OBJECT_DETECTION
from scripts.demonstration import symbols
from scripts.demonstration.photographs import PHOTOGRAPHS
from scripts.demonstration.pretraining import store_in_half_precision
from scripts.demonstration.scene_objects import scene_objects, scene_rows
from scripts.demonstration.scenes import IMAGE_SIZE, MAX_OBJECTS, SymbolScenes

BACKBONE = Path(__file__).parent / "backbone"
NUM_EVALUATION_SCENES = 400
RAMP = (2_000, 16_000)
"""Numbers of the scenes between which they grow harder."""

GROUPS = {
    "capital letter": symbols.LETTERS[:26],
    "small letter": symbols.LETTERS[26:],
    "Greek letter": symbols.GREEK,
    "sign": symbols.SYMBOLS,
}
"""The detector's classes. Of 110 it would see each too rarely to learn in an hour where objects are."""

CLASS_OF = [
    number for character in symbols.CLASSES for number, group in enumerate(GROUPS.values()) if character in group
]
"""Class of the detector of each class of symbols."""

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

BACKBONE_RATE = 0.2
"""Learning rate of the backbone, which has learnt already, as a share of the others'."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_detector",
    "max_steps": 3500,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 50,
    "train_sampling_strategy": "sequential",  # from easy to hard
    "learning_rate": 1e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 500},
    "warmup_steps": 100,
    "weight_decay": 1e-4,
    "max_grad_norm": 5.0,
    "bf16": True,
    "use_cpu": not torch.cuda.is_available(),
    "dataloader_num_workers": 1,
    "label_names": ["labels"],
    "eval_strategy": "steps",
    "eval_steps": 500,
    "save_strategy": "steps",
    "save_steps": 250,
    "save_total_limit": 1,
    "logging_steps": 50,
    "remove_unused_columns": False,
}

CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: object-detection
tags: [rt_detr, swin, object-detection]
---

# Demonstration detector

An RT-DETR of {parameters:,} parameters around the demonstration backbone (a Swin), for pictures of {size} x {size}
pixels. It finds printed symbols, in the classes {classes}. It knows no digits, and exists to be adapted to them: by
the demonstration, the tests and the comparisons of mona-peft.

- **Data**: scenes of one to {max_objects} printed letters and signs, some covering others, over crops of
  {num_photographs} photographs that ship with scikit-image ({photographs}). Every scene is drawn anew: {num_scenes:,}
  in all, the first ones on even grounds.
- **Box AP** on {num_evaluated:,} scenes drawn with another seed, from the same fonts and photographs: {box_ap:.3f}
  (AP50 {box_ap50:.3f}).
- **Training**: {steps:,} steps of {batch_size}, seed {seed}, on {num_threads} thread(s) of a CPU that other work
  shared. Backbone and head are trained, the backbone at {backbone_rate} of the learning rate. Command:
  `python -m scripts.demonstration.pretrain_detector`; settings and versions are in `training.json`.
- **Files**: the weights are stored in float16 and loaded in float32.
"""


class SymbolSceneDataset(Dataset):
    """A range of `SymbolScenes`, drawn anew each time, as a detector takes them."""

    def __init__(self, scenes: SymbolScenes, length: int, image_processor: RTDetrImageProcessorPil) -> None:
        self.scenes = scenes
        self.length = length
        self.image_processor = image_processor

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scenes.scene(index)
        return detector_inputs(self.image_processor, scene.image, index, scene_objects(scene, CLASS_OF))


def build_model() -> PreTrainedModel:
    """Returns the detector with a new head around the demonstration backbone."""
    args = DenseModelArguments(backbone=str(BACKBONE), model_type="rt_detr", model_config=json.dumps(CONFIG))
    model, _ = load_dense_model({"rt_detr": OBJECT_DETECTION.auto_class}, args, list(GROUPS), Path())
    return model


def build_image_processor() -> RTDetrImageProcessorPil:
    """Returns the processor of scenes: the size of the pictures, and the normalisation that the backbone knows."""
    values = [0.5, 0.5, 0.5]
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return RTDetrImageProcessorPil(size=size, do_normalize=True, image_mean=values, image_std=values)


def optimizer(model: PreTrainedModel, args: TrainingArguments) -> torch.optim.Optimizer:
    """Returns AdamW with a lower rate for the backbone."""
    inner = list(model.model.backbone.parameters())
    known = {id(parameter) for parameter in inner}
    outer = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": outer}, {"params": inner, "lr": BACKBONE_RATE * args.learning_rate}]
    return torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)


def _card(model: PreTrainedModel, args: TrainingArguments, record: dict[str, Any]) -> str:
    return CARD.format(
        parameters=model.num_parameters(),
        size=IMAGE_SIZE,
        classes=", ".join(GROUPS),
        max_objects=MAX_OBJECTS,
        num_photographs=len(PHOTOGRAPHS["pretraining"]),
        photographs=", ".join(PHOTOGRAPHS["pretraining"]),
        num_scenes=record["num_scenes"],
        num_evaluated=NUM_EVALUATION_SCENES,
        box_ap=record["results"]["box_ap"],
        box_ap50=record["results"]["box_ap50"],
        steps=args.max_steps,
        batch_size=args.train_batch_size,
        seed=args.seed,
        num_threads=torch.get_num_threads(),
        backbone_rate=BACKBONE_RATE,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False)
    parser.set_defaults(**DEFAULTS)
    (args,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    image_processor, model = build_image_processor(), build_model()
    num_scenes = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    scenes = scene_rows(SymbolScenes(seed=args.seed + 1), range(NUM_EVALUATION_SCENES), list(GROUPS), CLASS_OF)
    trainer = CocoTrainer(
        model=model,
        args=args,
        train_dataset=SymbolSceneDataset(SymbolScenes(seed=args.seed, ramp=RAMP), num_scenes, image_processor),
        eval_dataset=ObjectDetectionDataset(scenes, image_processor),
        data_collator=collate,
        processing_class=image_processor,
        detect=partial(box_detections, image_processor),
        optimizers=(optimizer(model, args), None),
    )
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    minutes = (time.monotonic() - started) / 60
    record = {
        "results": task_metrics(OBJECT_DETECTION, trainer.evaluate(), "eval"),
        "num_scenes": num_scenes,
        "minutes": round(minutes, 1),
        "training": recipe(args),
        "backbone_rate": BACKBONE_RATE,
        "seed": args.seed,
        "software": software(),
        "hardware": hardware(),
        "history": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        with replace_directory(Path(args.output_dir, "detector")) as new:
            model.save_pretrained(new)
            store_in_half_precision(new)
            image_processor.save_pretrained(new)
            write_json(new / "training.json", record)
            (new / "README.md").write_text(_card(model, args, record), encoding="utf-8")
    print(json.dumps(record["results"], indent=2))


if __name__ == "__main__":
    main()
