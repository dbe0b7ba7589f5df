"""`--augmentation` of every task, at every level: what is changed, what is not, and that annotation stays in place."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Mask2FormerImageProcessorPil,
    RTDetrImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.augmentation import LEVELS, augmentation
from mona_peft.tasks.data.objects.detection import augment_objects
from mona_peft.tasks.training.setup import find_training, prepare_images
from tests.tiny_runs import TASKS, dataset

SQUARE = {"size": {"height": 48, "width": 48}}
PROCESSORS = dict(
    zip(
        TASKS,
        (ViTImageProcessorPil, SegformerImageProcessorPil, RTDetrImageProcessorPil, Mask2FormerImageProcessorPil),
        strict=True,
    )
)


def pixels(task: str, level: str, epochs: int) -> list[torch.Tensor]:
    """The first training image as the model sees it in some epochs."""
    training = find_training(task)
    args = training.data_arguments(dataset=str(dataset(task)), augmentation=level)
    if task == "semantic-segmentation":
        args = replace(args, image_size=48, crop_size=32)
    images = prepare_images(training, training.load_data(args, 0), PROCESSORS[task](**SQUARE), args, 0)["train"]
    found = []
    for epoch in range(epochs):
        images.epoch.fill_(epoch)
        found.append(images[0]["pixel_values"])
    return found


@pytest.mark.parametrize("task", TASKS)
def test_levels_change_images_more_and_more(task):
    spread = {}
    for level in LEVELS:
        seen = torch.stack(pixels(task, level, 12))
        spread[level] = seen.mean((2, 3)).std(0).mean().item()  # of the mean colour: crops move it little
        same = all(torch.equal(one, seen[0]) for one in seen)
        crops = task == "semantic-segmentation"  # which take crops of one size on every level
        assert same == (level == "none" and not crops)
    assert spread["strong"] > spread["standard"] > spread["light"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", ["light", "standard", "strong"])
def test_boxes_stay_around_what_they_are_of(level, seed):
    """A white square on black: the box of what is bright after the change of places."""
    drawn = np.zeros((60, 80, 3), np.uint8)
    drawn[20:40, 30:60] = 255
    objects = {"bbox": [[30.0, 20.0, 30.0, 20.0]], "category": [1], "area": [600.0], "iscrowd": [False]}
    places = replace(augmentation(level), colour=0, operations=0, erase=0)
    image, changed = augment_objects(places, Image.fromarray(drawn), objects, Random(seed))
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 128)
    if not len(rows):
        assert changed["bbox"] == []
        return
    left, top = columns.min(), rows.min()
    assert changed["bbox"] == [[left, top, columns.max() + 1 - left, rows.max() + 1 - top]]
    assert changed["area"] == [pytest.approx(changed["bbox"][0][2] * changed["bbox"][0][3])]
