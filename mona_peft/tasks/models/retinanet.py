"""RetinaNet (arXiv:1708.02002) around a backbone of transformers: the detector of the Mona paper on Pascal VOC.

Feature pyramid, anchors, heads, loss and non-maximum suppression are torchvision's. Here they become a model of
transformers whose inputs and outputs are those of its DETR family: `Trainer`, PEFT, the evaluation and Deformable
DETR's image processor take it like one of them. torchvision is imported when a model is built, not before.

Importing this module makes transformers' auto classes know the model, as `model_type` `retinanet`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel, initialization
from transformers.backbone_utils import load_backbone
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForObjectDetection
from transformers.utils import ModelOutput

from mona_peft.tasks.models.around_backbone import AroundBackboneConfig

if TYPE_CHECKING:
    from torchvision.models.detection import RetinaNet


class RetinaNetConfig(AroundBackboneConfig):
    """Config of `RetinaNetForObjectDetection`.

    Args:
        backbone_config: Of the backbone; its `out_features` are what the feature pyramid begins with, and two coarser
            levels follow from the last. None is `default_backbone`.
        fpn_channels: Channels of the feature pyramid and of the heads.
        score_threshold: From this score on, a box is a detection.
        nms_threshold: Of two detections of a class whose intersection over union is larger, the surer one stays.
        detections_per_image: As many are kept, those of highest score.
        size_divisor: Images are filled up with zeros, below and to the right, to a multiple of it. None is the stride
            of the backbone's last map: 32 of a Swin's, twice the side of a patch behind a plain ViT.
        kwargs: As every config takes them, such as `id2label`.
    """

    model_type = "retinanet"
    default_backbone: ClassVar[dict[str, Any]] = {
        "model_type": "swin",
        "out_features": ["stage2", "stage3", "stage4"],
    }
    """A Swin-T, and the strides of RetinaNet's paper."""

    def __init__(
        self,
        backbone_config: Any = None,
        fpn_channels: int = 256,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections_per_image: int = 100,
        size_divisor: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone_config, **kwargs)
        self.fpn_channels = fpn_channels
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image
        plain = getattr(self.backbone_config, "backbone_config", None)  # of a feature pyramid
        self.size_divisor = size_divisor or (32 if plain is None else 2 * plain.patch_size)


@dataclass
class RetinaNetOutput(ModelOutput):
    """Output of `RetinaNetForObjectDetection`.

    Attributes:
        loss: Of a batch with labels: the mean over its images of focal loss and L1 loss of the boxes.
        loss_dict: The two parts.
        logits: Of each detection, shape (B, detections_per_image, num_labels): at its class the logit of its score;
            minus infinity elsewhere, and where there are no more detections. None in training mode.
        pred_boxes: Of each detection, shape (B, detections_per_image, 4): centre and size as shares of the sides of
            the image. None in training mode.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None


class RetinaNetForObjectDetection(PreTrainedModel):
    """torchvision's RetinaNet around a backbone of transformers.

    Raises:
        ImportError: torchvision is not there.
    """

    config_class = RetinaNetConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: RetinaNetConfig) -> None:
        super().__init__(config)
        backbone = load_backbone(config)
        self.channels = backbone.channels
        self.detector = _retinanet(backbone, self.channels, config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: the backbone is a model that initialises itself, and the rest follows."""

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialises what no checkpoint has given, outside the backbone as torchvision does."""
        super().initialize_weights()
        for name, parameter in _retinanet(nn.Identity(), self.channels, self.config).named_parameters():
            initialization.copy_(self.detector.get_parameter(name), parameter)

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: Sequence[Mapping[str, torch.Tensor]] | None = None,
    ) -> RetinaNetOutput:
        """Finds objects in images, which are resized and normalised already.

        Args:
            pixel_values: Shape (B, 3, H, W).
            pixel_mask: Shape (B, H, W): 1 inside each image, which lies at the left upper corner. None: they fill it.
            labels: Of each image `class_labels`, shape (N,), and `boxes`, shape (N, 4), centre and size as shares of
                the sides of the image. With them there is a loss.
        """
        detector, sizes = self.detector, _image_sizes(pixel_values, pixel_mask)
        images = _image_list(detector, pixel_values, sizes)
        features = list(detector.backbone(images.tensors).values())  # each (B, fpn_channels, h, w), finest first
        # In float32, whatever the rest is computed in: bfloat16 knows places beyond 256 to two pixels at best.
        predicted = {name: values.float() for name, values in detector.head(features).items()}
        anchors = detector.anchor_generator(images, [feature.float() for feature in features])
        output: dict[str, Any] = {}
        if labels is not None:
            losses = detector.compute_loss(_targets(labels, sizes), predicted, anchors)
            output |= {"loss": sum(losses.values()), "loss_dict": losses}
        if not self.training:
            per_place = detector.anchor_generator.num_anchors_per_location()
            levels = [count * map_.shape[-2] * map_.shape[-1] for count, map_ in zip(per_place, features, strict=True)]
            found = detector.postprocess_detections(
                {name: values.split(levels, dim=1) for name, values in predicted.items()},
                [boxes.split(levels) for boxes in anchors],
                sizes,
            )
            output |= _as_queries(found, sizes, self.config)
        return RetinaNetOutput(**output)


class _Pyramid(nn.Module):
    """Feature pyramid on the feature maps of a backbone, in the form in which torchvision's detectors take it."""

    def __init__(self, body: nn.Module, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.body(pixel_values).feature_maps
        return self.fpn({str(level): map_ for level, map_ in enumerate(maps)})


def _retinanet(body: nn.Module, channels: list[int], config: RetinaNetConfig) -> "RetinaNet":
    try:
        from torchvision.models.detection import RetinaNet
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"RetinaNet is torchvision's, which can't be imported here ({error}). Install the torchvision that goes "
            f'with torch {torch.__version__}, for instance by `pip install "mona-peft[train,torchvision]"`, or choose '
            "another type of model, such as rt_detr."
        ) from error
    # The two coarsest levels come from the backbone's last map, as in RetinaNet's paper and the Mona authors' setting.
    fpn = FeaturePyramidNetwork(channels, config.fpn_channels, LastLevelP6P7(channels[-1], config.fpn_channels))
    return RetinaNet(
        _Pyramid(body, fpn, config.fpn_channels),
        num_classes=config.num_labels,  # each has a sigmoid of its own, so the background needs none
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.detections_per_image,
        size_divisible=config.size_divisor,
    )


def _image_sizes(pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> list[tuple[int, int]]:
    """Returns height and width of each image of a batch."""
    if pixel_mask is None:
        return [tuple(pixel_values.shape[-2:])] * len(pixel_values)
    heights, widths = (pixel_mask.amax(axis).sum(1).tolist() for axis in (2, 1))
    return list(zip(heights, widths, strict=True))


def _image_list(detector: "RetinaNet", pixel_values: torch.Tensor, sizes: list[tuple[int, int]]) -> Any:
    """Returns images as torchvision's detectors have them after their own transform; here it only fills them up."""
    from torchvision.models.detection.image_list import ImageList

    images = [image[:, :height, :width] for image, (height, width) in zip(pixel_values, sizes, strict=True)]
    return ImageList(detector.transform.batch_images(images, detector.transform.size_divisible), sizes)


def _targets(
    labels: Sequence[Mapping[str, torch.Tensor]], sizes: list[tuple[int, int]]
) -> list[dict[str, torch.Tensor]]:
    """Returns labels in torchvision's form: corners in pixels."""
    return [
        {
            "labels": label["class_labels"],
            "boxes": center_to_corners_format(label["boxes"]) * label["boxes"].new_tensor([width, height] * 2),
        }
        for label, (height, width) in zip(labels, sizes, strict=True)
    ]


def _as_queries(
    found: list[dict[str, torch.Tensor]], sizes: list[tuple[int, int]], config: RetinaNetConfig
) -> dict[str, torch.Tensor]:
    """Returns torchvision's detections as `logits` and `pred_boxes`."""
    shape = (len(found), config.detections_per_image)
    logits = found[0]["scores"].new_full((*shape, config.num_labels), -torch.inf)
    pred_boxes = found[0]["boxes"].new_zeros((*shape, 4))
    for row, (image, (height, width)) in enumerate(zip(found, sizes, strict=True)):
        count = len(image["scores"])
        logits[row, torch.arange(count, device=logits.device), image["labels"]] = torch.logit(image["scores"])
        pred_boxes[row, :count] = corners_to_center_format(image["boxes"] / pred_boxes.new_tensor([width, height] * 2))
    return {"logits": logits, "pred_boxes": pred_boxes}


AutoConfig.register(RetinaNetConfig.model_type, RetinaNetConfig)
AutoModelForObjectDetection.register(RetinaNetConfig, RetinaNetForObjectDetection)
