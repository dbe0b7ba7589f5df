"""Kinds of dense models, as data: which classes of transformers load them, and how one is built around a backbone."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from mona_peft.tasks.models import dpt_segmenter, linear_segmenter, retinanet  # noqa: F401 (makes the auto classes know them)
from mona_peft.tasks.models.arguments import DenseModelArguments
from mona_peft.tasks.models.eomt import EOMT, eomt_config
from mona_peft.tasks.models.feature_pyramid import STAGES as FOUR_STAGES
from mona_peft.tasks.models.feature_pyramid import FeaturePyramidConfig
from mona_peft.tasks.task import INSTANCE_SEGMENTATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION

PLAIN_BACKBONES = ("dinov2", "dinov2_with_registers", "dinov3_vit")
"""Types of backbones that keep one stride and one width throughout."""

SQUARES = ("dpt", *EOMT)
"""Types of models that take square images alone; EoMT those of its `image_size`."""


@dataclass(frozen=True)
class Architecture:
    """How a model is built around a backbone.

    Attributes:
        stages: Stages of a Swin whose feature maps it takes; none if it takes no Swin.
        settings: From channels and strides of these feature maps to what the model's config says of them.
        blocks: After how many blocks of a plain ViT (DINOv2), at even distances, it takes the map as it is. Others are
            given ViTDet's feature pyramid around the ViT.
        built_as: `model_type` of what is built, if transformers has another model of this name.
    """

    stages: tuple[str, ...]
    settings: Callable[[list[int], list[int]], dict[str, Any]] = lambda channels, strides: {}
    blocks: int = 0
    built_as: str | None = None


AUTO_CLASSES: dict[str, dict[str, str]] = {
    SEMANTIC_SEGMENTATION.command: {
        "upernet": "AutoModelForSemanticSegmentation",
        "linear_segmenter": "AutoModelForSemanticSegmentation",
        "segformer": "AutoModelForSemanticSegmentation",
        "dpt": "AutoModelForSemanticSegmentation",
        "dpt_segmenter": "AutoModelForSemanticSegmentation",
        "mask2former": "AutoModelForUniversalSegmentation",
        "maskformer": "AutoModelForInstanceSegmentation",
        **dict.fromkeys(EOMT, "AutoModelForUniversalSegmentation"),
    },
    OBJECT_DETECTION.command: dict.fromkeys(
        ("rt_detr", "deformable_detr", "retinanet", *MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES),
        OBJECT_DETECTION.auto_class,
    ),
    INSTANCE_SEGMENTATION.command: dict.fromkeys(
        ("mask2former", "maskformer", *EOMT), INSTANCE_SEGMENTATION.auto_class
    ),
}
"""By task: the classes of transformers that load its models, by the `model_type` of their config."""

_RT_DETR = Architecture(
    FOUR_STAGES[1:], lambda channels, strides: {"encoder_in_channels": channels, "feat_strides": strides}
)
ARCHITECTURES = {
    "upernet": Architecture(FOUR_STAGES, lambda channels, strides: {"auxiliary_in_channels": channels[2]}),
    "linear_segmenter": Architecture(FOUR_STAGES[3:], blocks=1),
    # As wide as the heads of Depth Anything: 64 channels on a ViT-S, 128 on a ViT-B. Batch norm as in the authors'
    # segmenters; without it classes are hardly learnt.
    "dpt": Architecture(
        (),
        lambda channels, strides: {
            "readout_type": "ignore",
            "neck_hidden_sizes": [channels[0] // share for share in (8, 4, 2, 1)],
            "fusion_hidden_size": max(channels[0] // 6, 8),
            "use_batch_norm_in_fusion_residual": True,
        },
        blocks=4,
        built_as="dpt_segmenter",
    ),
    "mask2former": Architecture(
        FOUR_STAGES, lambda channels, strides: {"feature_strides": strides, "common_stride": strides[0]}
    ),
    "maskformer": Architecture(FOUR_STAGES),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "d_fine": _RT_DETR,
    "deimv2": _RT_DETR,
    "deformable_detr": Architecture(FOUR_STAGES[1:], lambda channels, strides: {"use_timm_backbone": False}),
    "retinanet": Architecture(FOUR_STAGES[1:]),
}
"""Kinds of models that are built around a backbone, by the `model_type` of their config."""


def check_is_pretrained(auto_classes: Mapping[str, str], args: DenseModelArguments) -> str:
    """Returns the type of a pre-trained model.

    Raises:
        ValueError: It is not for this task, or there are arguments for a new one.
    """
    name = args.model_name_or_path
    described = [option for option in ("model_type", "model_config") if getattr(args, option)]
    if described:
        of_new = " and ".join(f"--{option}" for option in described)
        raise ValueError(
            f"--model {name} has a config of its own, and {of_new} would describe a new model, around a --backbone. "
            f"Leave out --model, or {of_new}."
        )
    model_type = AutoConfig.from_pretrained(name).model_type
    if model_type not in auto_classes:
        raise ValueError(
            f"--model {name}: a model of type {model_type}, not one for this task: "
            f"{', '.join(auto_classes)}. A pre-trained backbone is given with --backbone, beside --model_type."
        )
    return model_type


def new_config(
    auto_classes: Mapping[str, str], args: DenseModelArguments, labels: dict[str, dict], side: int | None = None
) -> PreTrainedConfig:
    """Returns the config of a new model around a pre-trained backbone.

    Args:
        auto_classes: Classes of the task's models, by type.
        args: Which model.
        labels: Names of the classes.
        side: In pixels, of the images of a model that takes squares of one size alone. None: the backbone's.

    Raises:
        ValueError: No type or backbone is given, they do not go together, or a setting is none.
    """
    kinds = [kind for kind in auto_classes if kind in ARCHITECTURES or kind in EOMT]
    if args.backbone is None or args.model_type not in kinds:
        raise ValueError(
            f"--model_type {args.model_type}, --backbone {args.backbone}: without --model a new model is "
            f"built, of type {' or '.join(kinds)}, around a pre-trained backbone; for instance `--model_type "
            f"{kinds[0]} --backbone microsoft/swin-large-patch4-window7-224-in22k`."
        )
    backbone = AutoConfig.from_pretrained(args.backbone)
    if not hasattr(backbone, "stage_names") or not (hasattr(backbone, "embed_dim") or _is_plain(backbone)):
        raise ValueError(
            f"--backbone {args.backbone}: a model of type {backbone.model_type}, not a Swin or SwinV2, nor one of "
            f"{', '.join(PLAIN_BACKBONES)}."
        )
    given = _settings(args.model_config)
    backbone.update(given.pop("backbone_config", {}))
    if args.model_type in EOMT:
        config = eomt_config(args.model_type, backbone, side, given, labels)
    else:
        architecture = ARCHITECTURES[args.model_type]
        backbone, channels, strides = _with_maps(backbone, architecture, given)
        settings = {**architecture.settings(channels, strides), **given}
        config = AutoConfig.for_model(
            architecture.built_as or args.model_type, **settings, **labels, backbone_config=backbone
        )
    if unknown := [name for name in given if name not in type(config)().to_dict()]:
        raise ValueError(f"--model_config: the config of {args.model_type} has no {', '.join(unknown)}.")
    return config


def _with_maps(
    backbone: PreTrainedConfig, architecture: Architecture, given: dict[str, Any]
) -> tuple[PreTrainedConfig, list[int], list[int]]:
    """Returns the config of a backbone that gives the maps of an architecture, their channels and their strides.

    Args:
        backbone: Config of a Swin or of a plain ViT.
        architecture: That takes its maps.
        given: Settings of the model; those of the feature pyramid are taken out.
    """
    stages = list(architecture.stages)
    levels = [FOUR_STAGES.index(stage) for stage in stages]
    if not _is_plain(backbone):
        if not stages:
            raise ValueError(
                f"--backbone: a model of type {backbone.model_type}, and the head wants a plain ViT: one of "
                f"{', '.join(PLAIN_BACKBONES)}."
            )
        backbone.update({"out_features": stages})
        side = backbone.patch_size
        return backbone, [backbone.embed_dim * 2**level for level in levels], [side * 2**level for level in levels]
    count = max(architecture.blocks, 1)
    depths = [round(backbone.num_hidden_layers * (number + 1) / count) for number in range(count)]
    backbone.update({"out_features": [f"stage{depth}" for depth in depths]})
    if architecture.blocks:
        return backbone, [backbone.hidden_size] * count, [backbone.patch_size] * count
    sizes = {name: given.pop(name) for name in ("pyramid_channels",) if name in given}
    pyramid = FeaturePyramidConfig(backbone, out_features=stages, **sizes)
    # Those of patches of 16. Heads ask only how many steps of two lie between them.
    return pyramid, [pyramid.pyramid_channels] * len(levels), [4 * 2**level for level in levels]


def _is_plain(backbone: PreTrainedConfig) -> bool:
    return backbone.model_type in PLAIN_BACKBONES


def patch_size_of(config: PreTrainedConfig | None) -> int:
    """Returns what the sides of images must be multiples of: a plain ViT drops the pixels that fill no patch."""
    if getattr(config, "model_type", None) in SQUARES:
        return config.patch_size
    backbone = getattr(config, "backbone_config", None)
    return backbone.patch_size if backbone is not None and _is_plain(backbone) else 1


def only_side_of(config: PreTrainedConfig) -> int | None:
    """Returns the side in pixels of the square images that a model takes, where it takes no others."""
    return config.image_size if config.model_type in EOMT else None


def check_squares(config: PreTrainedConfig, size: Sequence[int | None]) -> None:
    """Checks that a model which takes square images alone is given such.

    Args:
        config: Of the model.
        size: Height and width of the images in pixels; None where they differ from image to image.

    Raises:
        ValueError: They are not square, or not of the one size that the model takes.
    """
    side, (height, width) = only_side_of(config), size
    if config.model_type in SQUARES and not (height and height == width and side in (None, height)):
        given = f"{height} x {width} pixels" if height and width else "several sizes"
        wanted = "squares" if side is None else f"images of {side} x {side} pixels"
        raise ValueError(
            f"--image_size: images of {given}, and a model of type {config.model_type} takes {wanted} alone."
        )


def _settings(model_config: str | dict[str, Any] | None) -> dict[str, Any]:
    """Returns the settings that are given as JSON on the command line, or in a preset."""
    if not isinstance(model_config, str):
        return dict(model_config or {})
    try:
        return dict(json.loads(model_config))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"--model_config {model_config}: not an object in JSON ({error}).") from error
