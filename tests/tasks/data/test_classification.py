"""Image-classification data: where it comes from, and what is refused before training starts."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, concatenate_datasets
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from mona_peft.tasks.data.augmentation import Sample, augmentation, crop, random_box
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from mona_peft.tasks.data.dataset import ImageClassificationDataset
from tests.folders import CLASSES, write_images


def load(folder: Path, **arguments) -> DatasetDict:
    return load_image_classification(DataArguments(dataset=str(folder), **arguments), seed=0)


def write_table(folder: Path, labels: list, feature=None, split: str = "train", column: str = "label") -> Path:
    """Writes a dataset as hub datasets are stored, with one grey image a label."""
    images = [PILImage.new("RGB", (8, 8), (number, number, number)) for number in range(len(labels))]
    features = Features({"picture": Image(), column: feature or Value("int64"), "extra": Value("string")})
    rows = Dataset.from_dict({"picture": images, column: labels, "extra": ["x"] * len(labels)}, features=features)
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_folder_with_splits_keeps_them(tmp_path):
    for split, count in {"train": 4, "validation": 2, "test": 3}.items():
        write_images(tmp_path / split, count)
    splits = load(tmp_path)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "validation": 6, "test": 9}
    assert splits["test"].features["label"].names == CLASSES
    assert "test" not in load(tmp_path, test_split="none")


def test_validation_images_are_split_off_evenly_by_seed_and_never_trained_on(image_folder):
    splits = load(image_folder, validation_fraction=0.25)
    paths = {name: {row["image"]["path"] for row in rows} for name, rows in splits.items()}
    assert len(paths["train"]) == 27
    assert not paths["train"] & paths["validation"]
    assert np.bincount(splits["validation"]["label"][:]).tolist() == [3, 3, 3]
    again = load(image_folder, validation_fraction=0.25)
    assert {row["image"]["path"] for row in again["validation"]} == paths["validation"]


def test_string_labels_are_names_of_classes_in_every_split(tmp_path):
    folder = write_table(tmp_path / "data", ["owl", "cat", "owl"], Value("string"))
    write_table(folder, ["cat"], Value("string"), split="validation")
    splits = load(folder, label_column="label")
    assert splits["train"].features["label"].names == ["cat", "owl"]
    assert splits["train"]["label"][:] == [1, 0, 1]
    assert splits["validation"]["label"][:] == [0]
    assert set(splits["train"].column_names) == {"image", "label"}


def test_integer_labels_are_numbers_of_classes(tmp_path):
    splits = load(write_table(tmp_path / "data", [0, 3, 1, 3]), label_column="label", validation_fraction=0.25)
    assert splits["train"].features["label"].num_classes == 4


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        (
            [0, -1, 1, -1],
            ClassLabel(num_classes=2),
            "2 of 4 labels of the train split .* 0 to 1 are allowed, row 1 has -1",
        ),
        ([0, None, 1, 1], ClassLabel(num_classes=2), "1 of 4 labels .* row 1 has None"),
        ([0, 1, 1, -7], Value("int64"), "1 of 4 labels .* row 3 has -7"),
        ([0.5, 1.0, 1.5, 0.0], Value("float32"), r"needs one class a row, .* label \(Value\)"),
    ],
)
def test_labels_missing_or_out_of_range_are_named(tmp_path, labels, feature, message):
    with pytest.raises(ValueError, match=message):
        load(write_table(tmp_path / "data", labels, feature), label_column="label")


def test_unlabelled_test_split_says_how_to_leave_it_out(tmp_path):
    folder = write_table(tmp_path / "data", [0, 1] * 4, ClassLabel(num_classes=2))
    write_table(folder, [-1, -1], ClassLabel(num_classes=2), split="test")
    with pytest.raises(ValueError, match=r"2 of 2 labels of the test split .* --test_split none"):
        load(folder)
    assert set(load(folder, test_split="none")) == {"train", "validation"}


def test_label_column_is_asked_for_where_none_stands_out(tmp_path):
    folder = write_table(tmp_path / "data", [0, 1, 1], Value("int64"), column="species")
    with pytest.raises(ValueError, match=r"0 columns of type ClassLabel, .* --label_column. .* species \(Value\)"):
        load(folder)


def test_empty_folder_says_what_it_needs(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(
        ValueError, match=r"no image in this folder. It needs two or more class folders, FOLDER/CLASS/\*.png"
    ):
        load(tmp_path)


def test_folder_without_classes_says_what_it_needs(tmp_path):
    write_images(tmp_path, 3, classes=["red"])
    with pytest.raises(ValueError, match="two or more class folders"):
        load(tmp_path)


def test_broken_images_are_all_named_before_training(tmp_path):
    write_images(tmp_path, 3)
    truncated, text = tmp_path / "red" / "1.png", tmp_path / "blue" / "2.jpg"
    truncated.write_bytes((tmp_path / "red" / "0.png").read_bytes()[:400])
    text.write_text("not an image")
    with pytest.raises(ValueError, match="2 of 10 images can't be read") as error:
        load(tmp_path, verify_images=True)
    assert str(truncated) in str(error.value)
    assert str(text) in str(error.value)
    # By the heads of files alone the first is not found; it is named when it is read.
    with pytest.raises(ValueError, match="1 of 10 images can't be read"):
        load(tmp_path)
    text.unlink()
    rows = concatenate_datasets(list(load(tmp_path).values()))
    images = ImageClassificationDataset(rows, ViTImageProcessorPil(size={"height": 8, "width": 8}))
    index = next(row for row in range(len(rows)) if rows[row]["image"]["path"] == str(truncated))
    with pytest.raises(ValueError, match=r"The image .*/red/1.png can't be read"):
        images[index]


def test_truncated_jpeg_is_found(tmp_path):
    write_images(tmp_path, 1)
    path = tmp_path / "red" / "photo.jpg"
    PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ValueError, match=r"photo.jpg: OSError: image file is truncated"):
        load(tmp_path, verify_images=True)


def test_augmentation_follows_from_seed_epoch_and_row(image_folder):
    rows = load(image_folder)["train"]
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    first, second = (ImageClassificationDataset(rows, processor, augmentation("light"), seed=1) for _ in range(2))
    plain = ImageClassificationDataset(rows, processor)
    pixels = first[3]["pixel_values"]
    assert pixels.shape == (3, 16, 16)
    second[0]  # what was read before does not matter
    assert torch.equal(second[3]["pixel_values"], pixels)
    assert not torch.equal(plain[3]["pixel_values"], pixels)
    second.epoch.fill_(1)
    assert not torch.equal(second[3]["pixel_values"], pixels)
    assert second[3]["labels"] == rows[3]["label"]


def test_random_crop_keeps_enough_of_the_image_and_stays_inside():
    # A picture that tells where each pixel came from, and has no black.
    rows, columns = np.mgrid[1:61, 1:81].astype(np.uint8)
    image = PILImage.fromarray(np.stack([rows, columns, rows], -1))
    sizes = set()
    for seed in range(200):
        cropped = crop(Sample(image), random_box(image.size, Random(seed))).image
        pixels = np.asarray(cropped)
        assert pixels.min() > 0
        assert cropped.width * cropped.height >= 0.4 * 60 * 80 * 0.95  # whole pixels
        sizes.add(cropped.size)
    assert len(sizes) > 100
