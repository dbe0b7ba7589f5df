"""Instance masks on their way to a model and back."""

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from faster_coco_eval.core import mask as mask_api
from PIL import Image
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

from mona_peft.tasks.data.augmentation import Sample, augmentation
from mona_peft.tasks.data.objects.instances import (
    BACKGROUND,
    MAX_INSTANCES,
    InstanceDataset,
    collate_instances,
    instance_map,
    prepare_instances,
)
from mona_peft.tasks.data.objects.loading import objects_features
from mona_peft.tasks.objects.detections import find_masks
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, average_precisions, find_instances

PROCESSORS = [Mask2FormerImageProcessorPil, MaskFormerImageProcessorPil]
HEIGHT, WIDTH, SIDE = 40, 60, 32
BOXES = [(3, 2, 20, 20), (30, 5, 12, 30), (5, 28, 16, 10)]
"""Left, top, width and height."""

CLASSES = np.array([2, 0, 2])


def rectangles(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), dtype=bool)
    for mask, (left, top, width, height) in zip(masks, boxes, strict=True):
        mask[top : top + height, left : left + width] = True
    return masks


def processor(kind: type, side: int = SIDE):
    # Settings as hub checkpoints have them; with these alone, the first instance would get lost.
    return kind(size={"height": side, "width": side}, ignore_index=0, do_reduce_labels=True)


def rows(*images: tuple[np.ndarray, list[int], list[bool]]) -> Dataset:
    """Black images with these masks, classes and crowds."""
    content = []
    for number, (masks, classes, crowds) in enumerate(images):
        rles = mask_api.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)) if len(masks) else []
        objects = {
            "bbox": [list(mask_api.toBbox(rle)) for rle in rles],
            "category": classes,
            "area": [float(mask_api.area(rle)) for rle in rles],
            "iscrowd": crowds,
            "mask": [rle["counts"].decode() for rle in rles],
        }
        image = Image.new("RGB", (WIDTH, HEIGHT))
        content.append({"image": image, "image_id": 7 * number, "width": WIDTH, "height": HEIGHT, "objects": objects})
    return Dataset.from_list(content, features=objects_features(["a", "b", "c"], with_masks=True))


def test_smaller_instances_lie_on_top_in_a_map():
    drawn = instance_map(rectangles((10, 10, 5, 5), (5, 5, 20, 20), (50, 30, 2, 2)))
    assert drawn.dtype == np.uint8
    assert (drawn[12, 12], drawn[6, 6], drawn[31, 51], drawn[0, 0]) == (0, 1, 2, BACKGROUND)
    assert np.bincount(drawn.ravel())[[0, 1, 2]].tolist() == [25, 375, 4]


@pytest.mark.parametrize("kind", PROCESSORS)
def test_every_instance_reaches_the_model_where_it_lies_and_with_its_class(kind):
    inputs = prepare_instances(Image.new("RGB", (WIDTH, HEIGHT)), rectangles(*BOXES), CLASSES, processor(kind))
    assert inputs["pixel_values"].shape == (3, SIDE, SIDE)
    assert inputs["class_labels"].tolist() == CLASSES.tolist()
    assert inputs["mask_labels"].shape == (3, SIDE, SIDE)
    for mask, (left, top, width, height) in zip(inputs["mask_labels"].numpy(), BOXES, strict=True):
        expected = np.array([left / WIDTH, top / HEIGHT, (left + width) / WIDTH, (top + height) / HEIGHT]) * SIDE
        lines, columns = np.nonzero(mask)
        found = [columns.min(), lines.min(), columns.max() + 1, lines.max() + 1]
        assert np.abs(found - expected).max() <= 1
        assert mask.sum() == (found[2] - found[0]) * (found[3] - found[1])


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_without_instances_and_with_more_than_a_map_can_hold(kind):
    image = Image.new("RGB", (WIDTH, HEIGHT))
    nothing = prepare_instances(image, rectangles(), np.zeros(0, dtype=np.int64), processor(kind))
    assert nothing["mask_labels"].shape == (0, SIDE, SIDE)
    assert nothing["class_labels"].shape == (0,)
    # Single pixels but for one of two, which goes last: it stays, and one of the others goes.
    many = rectangles(*((number % WIDTH, number // WIDTH, 1, 1) for number in range(MAX_INSTANCES)), (40, 30, 2, 1))
    classes = np.array([*[0] * MAX_INSTANCES, 1])
    inputs = prepare_instances(image, many, classes, kind(do_resize=False))
    assert len(inputs["class_labels"]) == len(inputs["mask_labels"]) == MAX_INSTANCES
    assert inputs["mask_labels"][inputs["class_labels"] == 1].sum() == 2


def test_crowds_are_no_instances():
    data = InstanceDataset(rows((rectangles(*BOXES), [2, 0, 2], [False, True, False])), processor(PROCESSORS[0]))
    assert data[0]["class_labels"].tolist() == [2, 2]
    assert data[0]["original_sizes"] == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("level", "flip"), [("light", False), ("light", None), ("none", True)])
def test_augmented_masks_stay_on_their_pixels(level, flip):
    masks = rectangles(*BOXES)
    image = Image.fromarray((masks * np.array([50, 100, 150])[:, None, None]).sum(0).astype(np.uint8)).convert("RGB")
    seen = set()
    for seed in range(20):
        sample = augmentation(level, flip)(Sample(image, maps=masks), Random(seed))
        changed, changed_masks = sample.image, sample.maps
        pixels = np.asarray(changed)[..., 0]
        for mask, grey in zip(changed_masks, (50, 100, 150), strict=True):
            np.testing.assert_array_equal(mask, pixels == grey)
        seen.add(pixels.tobytes())
    assert len(seen) >= (2 if level == "none" else 10)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_model_that_predicts_the_truth_has_an_average_precision_of_one(kind):
    image_processor = processor(kind, side=64)
    data = InstanceDataset(
        rows(
            (rectangles(*BOXES), [2, 0, 2], [False] * 3),
            (rectangles(), [], []),
            (rectangles(BOXES[1]), [1], [False]),
        ),
        image_processor,
    )
    batch = collate_instances([data[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 64, 64)
    masks, classes = torch.full((3, 5, 16, 16), -20.0), torch.zeros(3, 5, 4)
    classes[..., 3] = 20.0  # no object
    for image, (true, labels) in enumerate(zip(batch["mask_labels"], batch["class_labels"], strict=True)):
        masks[image, : len(true)] = torch.nn.functional.interpolate(true[None], size=16, mode="area")[0] * 40 - 20
        classes[image, range(len(true)), labels] = 30.0
    detections = find_instances(
        image_processor, {"masks_queries_logits": masks, "class_queries_logits": classes}, batch
    )
    assert list(detections) == [0, 7, 14]
    best = max(detections[14], key=lambda entry: entry["score"])
    assert best["category_id"] == 1
    assert best["segmentation"]["size"] == [HEIGHT, WIDTH]
    np.testing.assert_allclose(best["bbox"], BOXES[1], atol=3)
    metrics = average_precisions(data.rows, detections, BOXES_AND_MASKS)
    assert metrics["mask_ap50"] == metrics["box_ap50"] == pytest.approx(1)

    shifted = {"masks_queries_logits": masks.roll(8, dims=3), "class_queries_logits": classes}
    metrics = average_precisions(data.rows, find_instances(image_processor, shifted, batch), BOXES_AND_MASKS)
    assert metrics["mask_ap50"] < 0.5


def test_nothing_found_counts_as_nothing():
    image_processor = processor(PROCESSORS[0])
    data = InstanceDataset(rows((rectangles(*BOXES), [2, 0, 2], [False] * 3)), image_processor)
    outputs = {"masks_queries_logits": torch.full((1, 5, 8, 8), -20.0), "class_queries_logits": torch.zeros(1, 5, 4)}
    detections = find_instances(image_processor, outputs, collate_instances([data[0]]))
    assert detections == {0: []}
    metrics = average_precisions(data.rows, detections, BOXES_AND_MASKS)
    assert metrics["mask_ap"] == metrics["box_ap"] == 0


def test_no_mask_is_sure_enough():
    outputs = {"masks_queries_logits": torch.ones(2, 3, 8, 8), "class_queries_logits": torch.zeros(2, 3, 6)}
    assert find_masks(Mask2FormerImageProcessorPil(), outputs, (32, 32), [(32, 32), (9, 7)], threshold=0.9) == [[], []]


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_masks_are_those_of_the_image_processor(kind, threshold):
    """Larger and smaller images than the model has seen, one of them so small that masks get lost."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(3, 20, 4, 5, generator=generator) * 3 - 1
    masks = torch.nn.functional.interpolate(coarse, size=(24, 30), mode="bilinear")
    classes, input_size, sizes = (
        torch.randn(3, 20, 6, generator=generator) * 3,
        (96, 120),
        [(70, 91), (300, 200), (2, 3)],
    )
    found = find_masks(
        kind(), {"masks_queries_logits": masks, "class_queries_logits": classes}, input_size, sizes, threshold
    )
    if kind is MaskFormerImageProcessorPil:  # which enlarges the masks of the model without interpolation
        masks = torch.nn.functional.interpolate(masks, size=input_size, mode="bilinear")
    expected = kind().post_process_instance_segmentation(
        SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes),
        threshold=threshold,
        target_sizes=sizes,
        return_binary_maps=True,
    )
    assert len(found[2]) < len(found[1])
    for entries, image, size in zip(found, expected, sizes, strict=True):
        key = lambda entry: -entry["score"]  # noqa: E731
        pairs = sorted(
            zip(image["segments_info"], image["segmentation"], strict=True), key=lambda pair: -pair[0]["score"]
        )
        assert [entry["category_id"] for entry in sorted(entries, key=key)] == [info["label_id"] for info, _ in pairs]
        for entry, (info, mask) in zip(sorted(entries, key=key), pairs, strict=True):
            assert entry["score"] == pytest.approx(info["score"], abs=1e-6)
            assert entry["segmentation"]["size"] == list(size)
            np.testing.assert_array_equal(mask_api.decode(entry["segmentation"]), mask.numpy())
