"""Image processors of dense models: of pre-trained ones, and of new ones around a pre-trained backbone."""

from collections.abc import Sequence
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    BaseImageProcessor,
    DeformableDetrImageProcessorPil,
    Mask2FormerImageProcessorPil,
    MaskFormerImageProcessorPil,
    PreTrainedConfig,
    RTDetrImageProcessorPil,
    SegformerConfig,
)

# transformers 5.9 to 5.16 refuses these top-level names where torchvision is missing, though the classes do without it.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.models.architectures import check_squares, only_side_of
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.eomt import EOMT
from mona_peft.tasks.models.feature_pyramid import FeaturePyramidConfig

if getattr(transformers.SegformerImageProcessorPil, "is_dummy", False):  # refused in checkpoints too
    AutoImageProcessor.register(
        SegformerConfig, image_processor_classes={"pil": SegformerImageProcessorPil}, exist_ok=True
    )

OF_NEW_MODELS = {
    **dict.fromkeys(("upernet", "linear_segmenter", "dpt"), SegformerImageProcessorPil),
    "mask2former": Mask2FormerImageProcessorPil,
    "maskformer": MaskFormerImageProcessorPil,
    **dict.fromkeys(("rt_detr", "rt_detr_v2", "d_fine", "deimv2"), RTDetrImageProcessorPil),
    "deformable_detr": DeformableDetrImageProcessorPil,
    "retinanet": DeformableDetrImageProcessorPil,
    **dict.fromkeys(EOMT, Mask2FormerImageProcessorPil),
}
"""Classes of the image processors of models that are built around a backbone, by `model_type`."""

IN_PLACE_OF = {"dpt": SegformerImageProcessorPil, **dict.fromkeys(EOMT, Mask2FormerImageProcessorPil)}
"""Classes of image processors that are used in place of a model's own, by its `model_type`: those fill images up or cut
them, which our crops and windows do already, and EoMT's counts classes from 1 where some pixels do not count."""

PADDED = ("conditional_detr", "dab-detr", "deformable_detr", "detr", "retinanet")
"""Models that are told which pixels of a batch belong to an image. The others want images of one size: they would take
the padding for a part of the image, and so of boxes and masks."""


def load_image_processor(args: DenseModelArguments, size: Sequence[int] | None = None) -> BaseImageProcessor:
    """Loads the image processor of a model, or makes one with the normalisation of the backbone.

    Args:
        args: Which model.
        size: In pixels: one number, the side of the squares that images are resized to, or two, the shorter side and
            what the longer one may reach. None: the model's own, or the backbone's.

    Raises:
        ValueError: The size is neither one number nor two, or there is no image processor beside the weights.
    """
    given = {}
    if size is not None:
        if len(size) not in (1, 2):
            raise ValueError(f"--image_size {' '.join(map(str, size))}: one number or two are wanted (see --help).")
        names = ("shortest_edge", "longest_edge") if len(size) == 2 else ("height", "width")
        given = {"size": dict(zip(names, (size[0], size[-1]), strict=True))}
    config = AutoConfig.from_pretrained(args.base_model)
    model_type = config.model_type if args.model_name_or_path is not None else args.model_type
    if args.model_name_or_path is not None and model_type not in IN_PLACE_OF:
        return _stored(args.base_model, **given)
    known = _stored(args.base_model)
    side = only_side_of(config)
    usual = known.size if side is None else {"height": side, "width": side}
    if model_type in EOMT:
        given["size_divisor"] = 0  # Mask2Former's enlarges images to a multiple of 32
    moments = {"do_normalize": True, "image_mean": known.image_mean, "image_std": known.image_std}
    made_by = OF_NEW_MODELS if args.model_name_or_path is None else IN_PLACE_OF
    return made_by[model_type](**{"size": usual, **given}, **moments)


def _stored(name: str, **given: Any) -> BaseImageProcessor:
    try:
        return AutoImageProcessor.from_pretrained(name, **given)
    except OSError as error:
        raise ValueError(
            f"{name}: no preprocessor_config.json beside the weights, which says how images are normalised. Save that "
            "of the model they come from into the folder: AutoImageProcessor.from_pretrained(MODEL)."
            f"save_pretrained({name!r}). ({error})"
        ) from error


def check_image_sizes(image_processor: BaseImageProcessor, config: PreTrainedConfig) -> None:
    """Checks that images come in one size where the model needs that, and in one that it can halve.

    Raises:
        ValueError: They don't.
    """
    model_type, size = config.model_type, image_processor.size
    # RT-DETR and its successors enlarge each of the backbone's maps by two, and lay it over the one before. Those of a
    # feature pyramid fit whatever the images' size.
    pyramid = isinstance(getattr(config, "backbone_config", None), FeaturePyramidConfig)
    stride = 1 if pyramid else max(getattr(config, "feat_strides", [1]))
    if any(size.get(side, 0) % stride for side in ("height", "width")):
        raise ValueError(
            f"--image_size: the sides of the images must be multiples of {stride} for this model of type {model_type}, "
            f"and are {size.get('height')} x {size.get('width')}."
        )
    check_squares(config, (size.get("height"), size.get("width")))
    if model_type not in PADDED and not (size.get("height") and size.get("width")):
        raise ValueError(
            f"A model of type {model_type} takes images of one size, and its image processor resizes them to several "
            f"({dict(size)}). Give one size for all, for instance --image_size 640."
        )
