"""From the outputs of a model to detections in COCO's format of results, by the image processor's post-processing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from faster_coco_eval.core import mask as mask_api
from torch.nn import functional
from transformers import BaseImageProcessor

Detections = dict[int, list[dict[str, Any]]]
"""What was found in each image, by `image_id`: entries in COCO's format of results, with `bbox` or `segmentation` or
both, `category_id` and `score`. Images in which nothing was found have none."""

SCORED_SIZES = {"Mask2Former": (384, 384)}
"""In which (height, width) image processors score masks, by what their names begin with. Others leave masks as small as
the model gives them: MaskFormer's are scored in the size of what the model has seen."""

PIXELS_AT_ONCE = 2**20
"""Of how many pixels masks of a model are scored together: as many as stay in a processor's cache."""


def find_boxes(
    image_processor: BaseImageProcessor,
    outputs: Mapping[str, torch.Tensor],
    sizes: Sequence[tuple[int, int]],
    threshold: float = 0.0,
) -> list[list[dict[str, Any]]]:
    """Returns the boxes that a detector finds in each image of a batch, in pixels of the original image.

    Args:
        image_processor: Of the model.
        outputs: Of the model: `logits` (B, Q, ...), `pred_boxes` (B, Q, 4).
        sizes: (height, width) of each original image.
        threshold: Scores from here on are kept.
    """
    found = image_processor.post_process_object_detection(
        outputs, threshold=threshold, target_sizes=torch.tensor(sizes, device=outputs["logits"].device)
    )
    return [
        [
            {"bbox": [left, top, right - left, bottom - top], "category_id": category, "score": score}
            for (left, top, right, bottom), category, score in zip(
                image["boxes"].tolist(), image["labels"].tolist(), image["scores"].tolist(), strict=True
            )
        ]
        for image in found
    ]


@torch.no_grad()
def find_masks(
    image_processor: BaseImageProcessor,
    outputs: Mapping[str, torch.Tensor],
    input_size: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    threshold: float = 0.0,
) -> list[list[dict[str, Any]]]:
    """Returns the instances that a model of the MaskFormer family finds in each image of a batch, with mask and box.

    They are those of the image processors' `post_process_instance_segmentation`, which keeps several copies of every
    mask, in float32 and as large as the image, and can't be used on a GPU. Here they stay on the model's device, a few
    at a time, until they are one byte a pixel.

    Mask2Former's go by way of 384 x 384 pixels, whatever the size of the image: the masks of larger ones have their
    edges to about two pixels, and their average precision is that of all of transformers.

    Args:
        image_processor: Of the model.
        outputs: Of the model: `class_queries_logits` (B, Q, num_classes + 1), `masks_queries_logits` (B, Q, h, w).
        input_size: (height, width) of what the model has seen.
        sizes: (height, width) of each original image.
        threshold: Scores from here on are kept.
    """
    name = type(image_processor).__name__
    scored_size = next((size for start, size in SCORED_SIZES.items() if name.startswith(start)), input_size)
    found = []
    for classes, masks, size in zip(
        outputs["class_queries_logits"].float(), outputs["masks_queries_logits"].float(), sizes, strict=True
    ):
        probabilities = classes.softmax(-1)[:, :-1]  # the last is that of no object
        # A query may be found under several classes; as many are kept as there are queries.
        scores, places = probabilities.flatten().topk(len(probabilities))
        places, scores = places[scores >= threshold], scores[scores >= threshold]  # they only get smaller
        categories = (places % probabilities.shape[1]).tolist()
        queries, numbers = torch.unique(places // probabilities.shape[1], return_inverse=True)
        encoded, certainties = [], [scores[:0]]
        at_once = max(1, PIXELS_AT_ONCE // math.prod(scored_size))
        for few in queries.split(at_once) if len(queries) else ():
            if scored_size == size:  # then the masks can be made down the columns from the start
                binary, certainty = _score_masks(masks[few].transpose(1, 2), size[::-1])
                columns = binary.view(torch.uint8)
            else:
                binary, certainty = _score_masks(masks[few], scored_size)
                columns = _resize_nearest(binary, size)
            encoded += _encode(columns)
            certainties.append(certainty)
        scores = scores * torch.cat(certainties)[numbers]
        boxes = [mask_api.toBbox(mask).tolist() for mask in encoded]
        empty = [not mask_api.area(mask) for mask in encoded]
        found.append(
            [
                {"segmentation": encoded[number], "bbox": boxes[number], "category_id": category, "score": score}
                for number, category, score in zip(numbers.tolist(), categories, scores.tolist(), strict=True)
                if score >= threshold and not empty[number]
            ]
        )
    return found


def _score_masks(logits: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns masks, (N, *size) bool, and how sure the model is on average of their pixels, (N,)."""
    logits = functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    inside = functional.threshold_(logits.sigmoid_(), 0.5, 0.0)
    binary = inside.bool()  # on a CPU a fifth of the time of `logits > 0`
    total = inside.sum((1, 2))
    # Counted as floats, in place: sums of bool go by way of eight bytes a pixel.
    return binary, total / (inside.ceil_().sum((1, 2)) + 1e-6)


def _resize_nearest(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes masks to (height, width) as `interpolate(mode="nearest")`, which would take a float for every pixel.

    Args:
        masks: (N, h, w) bool, of another size.
        size: (height, width)

    Returns:
        (N, width, height) uint8: down the columns, as COCO's encoding goes.
    """
    rows, columns = (
        functional.interpolate(torch.arange(old, dtype=torch.float32)[None, None], size=new, mode="nearest")[
            0, 0
        ].long()
        for old, new in zip(masks.shape[1:], size, strict=True)
    )
    # Along axis 1 whole rows are copied, and in this order they are never larger than they will be.
    tall = masks.view(torch.uint8).index_select(1, rows.to(masks.device)).transpose(1, 2).contiguous()
    return tall.index_select(1, columns.to(masks.device))


def _encode(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Returns the run-length encodings of masks, (N, width, height) uint8."""
    return mask_api.encode(masks.cpu().numpy().transpose(2, 1, 0))
