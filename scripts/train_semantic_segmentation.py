"""Adapts a model for semantic segmentation with Mona, or trains its head alone, on transformers' Trainer.

Without arguments it trains UPerNet on the demonstration backbone to find handwritten digits, offline, in minutes:

    python -m scripts.train_semantic_segmentation

A model of the hub, or a new one around a pre-trained Swin, on a dataset of the hub or a folder of images and masks:

    python -m scripts.train_semantic_segmentation --dataset FOLDER_OR_NAME --output_dir outputs/scenes \\
        --model_name_or_path openmmlab/upernet-swin-tiny
    python -m scripts.train_semantic_segmentation --dataset FOLDER_OR_NAME --output_dir outputs/scenes \\
        --model_type upernet --backbone microsoft/swin-large-patch4-window7-224-in22k --preset ade20k

A folder holds FOLDER/images/SPLIT/*.jpg and masks of the same names, one class number a pixel, in
FOLDER/masks/SPLIT/*.png. The output directory then holds checkpoints (`--resume_from_checkpoint last` goes on from the
newest), `metrics.json`, `curves.png`, `predictions.png` and `adapter/`: adapter and head, the image processor, and a
model card with the code that loads them.
"""

from collections.abc import Sequence

from torch import nn
from transformers import (
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mona_peft.tasks.data.dataset import EpochCallback
from mona_peft.tasks.data.segmentation.dataset import (
    IGNORE_INDEX,
    AnnotatedImages,
    EvaluationImages,
    ScaleAndCrop,
    TrainingImages,
    collate,
)
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation
from mona_peft.tasks.models.arguments import DenseModelArguments, MethodArguments
from mona_peft.tasks.models.backbones import checkpoint_backbone
from mona_peft.tasks.models.image_processors import load_image_processor
from mona_peft.tasks.models.loading import load_dense_model
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.segmentation.evaluation import SegmentationMetrics, SemanticSegmentationTrainer
from mona_peft.tasks.segmentation.pictures import segmentation_pictures
from mona_peft.tasks.task import SEMANTIC_SEGMENTATION
from mona_peft.tasks.training.arguments import parse_arguments
from mona_peft.tasks.training.run import TrainingRun, run_script, run_training
from mona_peft.tasks.training.run_directory import check_same_weights, find_checkpoint
from scripts.demonstration.scene_class_maps import SCENE_CLASSES, digit_scene_maps
from scripts.demonstration.scenes import DIGIT_SCENES


def check_arguments(
    data_args: SegmentationDataArguments, args: TrainingArguments, model: nn.Module, count: int
) -> None:
    """Checks what would only fail within training.

    Raises:
        ValueError: Sizes are not positive, batches are too small for batch norm or too large for the data, or windows
            are not for the model.
    """
    sizes = (data_args.image_size, data_args.crop_size, *data_args.scales)
    if len(data_args.scales) != 2 or data_args.scales[0] > data_args.scales[1] or min(sizes) <= 0:
        raise ValueError(
            f"--image_size {sizes[0]}, --crop_size {sizes[1]}, --scales {' '.join(map(str, sizes[2:]))}: positive "
            "numbers are wanted, and two scales, the smaller first."
        )
    batch_size = args.train_batch_size * args.world_size
    if count < batch_size:
        raise ValueError(f"{count} training images are fewer than a batch of {batch_size}: choose a smaller one.")
    batch_norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if args.train_batch_size == 1 and batch_norms:
        raise ValueError(
            f"--per_device_train_batch_size 1: the batch norms of {type(model).__name__}, {batch_norms[0]} for one, "
            "need two images at least."
        )
    if data_args.eval_mode == "slide" and model.config.model_type in ("mask2former", "maskformer"):
        raise ValueError(
            f"--eval_mode slide: {model.config.model_type} scores masks, not pixels, so --eval_mode whole it has to be."
        )


def train(
    model_args: DenseModelArguments,
    data_args: SegmentationDataArguments,
    method_args: MethodArguments,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingRun:
    """Trains, evaluates and saves.

    Args:
        model_args: The model.
        data_args: The images.
        method_args: The method and its settings.
        args: All else.
        callbacks: Of `Trainer`, besides our own.

    Raises:
        ValueError: Arguments, data or output directory can't be used; the message says what to do.
    """
    checkpoint = find_checkpoint(args)
    set_seed(args.seed)

    if data_args.dataset is None:
        splits, classes = digit_scene_maps(), SCENE_CLASSES
    else:
        splits, classes = load_semantic_segmentation(data_args, args.seed)
    base_model = load_dense_model(SEMANTIC_SEGMENTATION, model_args, classes)
    size = [data_args.image_size] if model_args.model_name_or_path is None else None
    image_processor = load_image_processor(model_args, size)
    image_processor.ignore_index = IGNORE_INDEX
    image_processor.do_reduce_labels = data_args.reduce_labels
    check_arguments(data_args, args, base_model, len(splits["train"]))
    model = METHODS[method_args.method](base_model, method_args)
    checkpoint_backbone(base_model, args)
    if checkpoint is not None:
        check_same_weights(checkpoint, model)

    augmentation = ScaleAndCrop(
        image_size=data_args.image_size,
        scales=tuple(data_args.scales),
        crop_size=data_args.crop_size,
        flip=data_args.horizontal_flip,
        max_class_share=data_args.max_class_share,
        fill=tuple(round(255 * level) for level in image_processor.image_mean),
    )
    settings = {
        "num_classes": len(classes),
        "ignore_index": data_args.ignore_index,
        "reduce_labels": data_args.reduce_labels,
        "image_processor": image_processor,
    }
    images: dict[str, AnnotatedImages] = {
        split: TrainingImages(rows, **settings, augmentation=augmentation, seed=args.seed)
        if split == "train"
        else EvaluationImages(rows, **settings, image_size=data_args.image_size)
        for split, rows in splits.items()
    }
    metrics = SegmentationMetrics(classes)
    args.batch_eval_metrics = True
    args.label_names = ["labels"]
    trainer = SemanticSegmentationTrainer(
        model=model,
        args=args,
        train_dataset=images["train"],
        eval_dataset=images["validation"],
        data_collator=collate,
        processing_class=image_processor,
        compute_metrics=metrics,
        callbacks=[EpochCallback(images["train"]), *callbacks],
        num_classes=len(classes),
        eval_mode=data_args.eval_mode,
        crop_size=data_args.crop_size,
    )
    return run_training(
        trainer,
        SEMANTIC_SEGMENTATION,
        model_args,
        data_args,
        method_args,
        images=images,
        classes=classes,
        dataset=data_args.dataset or DIGIT_SCENES,
        checkpoint=checkpoint,
        pictures=segmentation_pictures(trainer, images["validation"], classes),
        details={"class_iou": lambda: metrics.class_iou},
    )


def parse(
    argv: Sequence[str] | None = None,
) -> tuple[DenseModelArguments, SegmentationDataArguments, MethodArguments, TrainingArguments]:
    """Parses the given arguments, or those of the command line."""
    return parse_arguments(
        (DenseModelArguments, SegmentationDataArguments, MethodArguments, TrainingArguments),
        argv,
        output_dir="outputs/semantic_segmentation",
        default_preset="digit_scenes_semantic",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    run_script(train, parse(argv))


if __name__ == "__main__":
    main()
