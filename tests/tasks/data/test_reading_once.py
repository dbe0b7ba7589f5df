"""How often images are decoded: not before training, once an epoch, and large ones no finer than they are needed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from mona_peft.tasks.data import dataset as reader
from mona_peft.tasks.data.augmentation import Augmentation
from mona_peft.tasks.data.checks import AT_ONCE, _all_of
from mona_peft.tasks.data.decoding import read_image
from mona_peft.tasks.data.segmentation.dataset import AnnotatedImages, ScaleAndCrop
from mona_peft.tasks.data.stored import picture_rows, stored_file
from mona_peft.tasks.training.setup import find_training, prepare_images
from scripts.data_formats.images import folders
from scripts.data_formats.masks import masks
from scripts.data_formats.objects import coco
from tests.tasks.data.test_augmentation_levels import PROCESSORS, SQUARE
from tests.tiny_runs import TASKS, dataset


@pytest.fixture
def decoded(monkeypatch) -> Counter:
    """How often each file was decoded."""
    count: Counter = Counter()
    original = ImageFile.ImageFile.load

    def load(self):
        if self.tile:
            count[self.filename] += 1
        return original(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    return count


def loaded(task: str, folder=None, **options):
    training = find_training(task)
    args = training.data_arguments(dataset=str(folder or dataset(task)), **options)
    if task == "semantic-segmentation":
        args = replace(args, image_size=48, crop_size=32)
    return training, args, training.load_data(args, 0)


def images_of(decoded: Counter) -> dict[str, int]:
    return {name: count for name, count in decoded.items() if "/masks/" not in name}


@pytest.mark.parametrize("task", TASKS)
def test_the_check_before_training_reads_heads_unless_all_is_to_be_verified(decoded, task):
    loaded(task)
    assert images_of(decoded) == {}
    _, _, data = loaded(task, verify_images=True)
    names = {row["image"]["path"] for rows in data.splits.values() for row in rows}
    assert images_of(decoded).keys() == names


@pytest.mark.parametrize("level", ["none", "light", "strong"])
@pytest.mark.parametrize("task", TASKS)
def test_no_image_is_decoded_more_often_than_once_an_epoch(decoded, task, level):
    training, args, data = loaded(task, augmentation=level)
    images = prepare_images(training, data, PROCESSORS[task](**SQUARE), args, 0)
    for split, rows in data.splits.items():
        decoded.clear()
        for number in range(len(rows)):
            images[split][number]
        names = {picture["path"] for row in rows for picture in (row["image"], row.get("mask")) if picture}
        assert decoded == dict.fromkeys(names, 1)


LARGE = {
    "image-classification": folders("train/cat", "train/dog", "val/cat", "val/dog", suffix=".jpg"),
    "semantic-segmentation": masks("images/{split}/{number}.jpg", "masks/{split}/{number}.png"),
    "object-detection": coco(("train", "val"), "annotations/instances_{split}.json", "{split}"),
    "instance-segmentation": coco(("train", "val"), "annotations/instances_{split}.json", "{split}"),
}
SMALL: dict[str, dict] = {task: {"size": {"height": 16, "width": 16}} for task in TASKS}
SMALL["instance-segmentation"] = {**SMALL["instance-segmentation"], "size_divisor": 16}
"""Of image processors: the JPEGs above, of 48 x 40 pixels, are large beside them."""


@pytest.mark.parametrize("task", TASKS)
def test_large_photographs_are_read_at_a_part_of_their_size_to_train_and_what_is_annotated_stays_in_place(
    tmp_path, monkeypatch, task
):
    sizes = []

    def read(*arguments):
        image = read_image(*arguments)
        sizes.append(image.size)
        return image

    monkeypatch.setattr(reader, "read_image", read)
    LARGE[task](tmp_path)
    training, args, data = loaded(task, tmp_path)
    nothing = Augmentation()
    if task == "semantic-segmentation":
        args = replace(args, image_size=16, crop_size=16)
        nothing = ScaleAndCrop(16, (1.0, 1.0), 16, False, 1.0, (0, 0, 0))
    images = prepare_images(training, data, PROCESSORS[task](**SMALL[task]), args, 0)
    train = images["train"]
    train.augmentation = nothing
    inputs = train[0]
    assert sizes == [(24, 20)]
    images["validation"][0]
    assert sizes == [(24, 20), (48, 40)]

    monkeypatch.setattr(type(train), "least_side", lambda self, index: None)
    whole = train[0]
    assert sizes[2] == (48, 40)
    both = torch.stack([inputs["pixel_values"].flatten(), whole["pixel_values"].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9
    if task == "object-detection":
        for name in ("boxes", "class_labels"):
            torch.testing.assert_close(inputs["labels"][name], whole["labels"][name], atol=1e-6, rtol=0)
    elif task == "instance-segmentation":
        assert (inputs["mask_labels"] != whole["mask_labels"]).float().mean() < 0.03
        assert torch.equal(inputs["class_labels"], whole["class_labels"])
    else:
        assert torch.as_tensor(inputs["labels"]).equal(torch.as_tensor(whole["labels"]))


def test_a_mask_of_another_size_is_refused_where_its_image_is_read_at_that_size(tmp_path):
    """Half of an image's size is what a draft has: the head of the file tells."""
    images = AnnotatedImages(
        picture_rows(image=[stored_file(tmp_path / "a.jpg")], mask=[stored_file(tmp_path / "a.png")]),
        num_classes=2,
        image_processor=None,
    )
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="24 × 20 pixels, its image 48 × 40"):
        images.pair(0, least=20)


def test_pictures_of_a_table_are_not_all_in_memory_while_they_are_checked():
    """A dataset of the hub may be larger than the memory."""
    done, ahead = [], []

    def pictures():
        for number in range(5 * AT_ONCE):
            ahead.append(number - len(done))
            yield number

    _all_of(done.append, pictures(), range(5 * AT_ONCE), "")
    assert len(done) == 5 * AT_ONCE
    assert max(ahead) <= AT_ONCE
