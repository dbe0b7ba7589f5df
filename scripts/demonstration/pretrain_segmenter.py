"""Pre-trains the demonstration segmenter, a small Mask2Former, to find printed symbols in scenes over photographs.

    python -m scripts.demonstration.pretrain_segmenter

About 45 minutes on one CPU core that computes bfloat16; `--resume_from_checkpoint last` goes on after an interruption.
All arguments of `transformers.TrainingArguments` work. The result, as stored in `scripts/demonstration/segmenter`, is
written to `segmenter/` in the output directory: weights in float16, the image processor, and a card.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

from scripts.common.instance_masks import collate_instances, prepare_instances
from scripts.common.run_directory import find_checkpoint
from scripts.common.trainer import WholeModelTrainer
from scripts.demonstration.pretraining import Stopwatch, num_pictures, parse, ramp, save_demonstration_model
from scripts.demonstration.scenes import IMAGE_SIZE, SymbolScenes

BACKBONE = Path(__file__).parent / "backbone"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
WIDTH = 64
RAMP = (0.0, 0.25)
"""Shares of the training between which scenes grow harder."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/demonstration_segmenter",
    "max_steps": 5000,
    "per_device_train_batch_size": 8,
    "learning_rate": 7e-4,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": '{"num_decay_steps": 1000}',
    "warmup_steps": 100,
    "save_steps": 250,
}


class SymbolInstances(Dataset):
    """A range of `SymbolScenes` as Mask2Former takes them, all symbols of one class.

    What is to be learnt here is which pixels belong together; a class for each of the symbols makes that much slower.
    """

    def __init__(self, scenes: SymbolScenes, length: int, image_processor: BaseImageProcessor) -> None:
        self.scenes = scenes
        self.length = length
        self.image_processor = image_processor

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scene = self.scenes.scene(index)
        return prepare_instances(scene.image, scene.masks, [0] * len(scene.masks), self.image_processor)


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
        id2label={0: "symbol"},
        label2id={"symbol": 0},
    )
    model = Mask2FormerForUniversalSegmentation(config)
    model.model.pixel_level_module.encoder = SwinBackbone.from_pretrained(BACKBONE, config=backbone)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    args = parse(argv, DEFAULTS)
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    image_processor = Mask2FormerImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, ignore_index=255
    )
    scenes = SymbolScenes(seed=args.seed, ramp=ramp(args, RAMP))
    trainer = WholeModelTrainer(
        model=build_model(),
        args=args,
        train_dataset=SymbolInstances(scenes, num_pictures(args), image_processor),
        data_collator=collate_instances,
        processing_class=image_processor,
        callbacks=[Stopwatch()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    save_demonstration_model(Path(args.output_dir, "segmenter"), trainer, image_processor, {}, CARD)


CARD = "to do"

if __name__ == "__main__":
    main()
