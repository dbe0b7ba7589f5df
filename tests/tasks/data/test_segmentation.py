"""Semantic-segmentation data: folders and tables as users have them, what is refused, and what the models get."""

import shutil
from random import Random

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from transformers import Mask2FormerImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.segmentation.dataset import (
    AnnotatedImages,
    EvaluationImages,
    ScaleAndCrop,
    TrainingImages,
    collate,
)
from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation
from mona_peft.tasks.data.segmentation.masks import UNCOUNTED, MaskReading
from mona_peft.tasks.data.stored import picture_rows, stored_file
from scripts.demonstration import scene_class_maps
from scripts.demonstration.scenes import DigitScenes
from tests.folders import SHAPES, write_masks

COUNTS = {"train": 4, "validation": 3}


@pytest.fixture
def folder(tmp_path):
    write_masks(tmp_path / "shapes", COUNTS)
    return tmp_path / "shapes"


SETTINGS = {"num_classes": 11}


def annotated(rows, args=None):
    args = args or SegmentationDataArguments()
    masks = MaskReading(args.ignore_index, args.reduce_labels)
    return AnnotatedImages(rows, **SETTINGS, masks=masks, image_processor=None)


def training_rows(folder, **options):
    return load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder), **options), seed=0).splits["train"]


def test_folder_gives_images_with_their_masks(folder):
    (folder / "classes.txt").write_text("\n".join(SHAPES) + "\n")
    splits, classes, _ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder)), seed=0)
    assert classes == SHAPES
    assert {split: len(rows) for split, rows in splits.items()} == COUNTS
    images = annotated(splits["train"])
    for number in range(4):
        class_map = images.class_map(number)
        expected = np.array(PIL.Image.open(folder / "masks" / "train" / f"{number}.png")).astype(int)
        expected[0, 0] = UNCOUNTED
        assert (class_map == expected).all()
        colour = np.asarray(images.image(number)).astype(int)
        assert (colour[class_map == 1][:, 0] > 120).mean() > 0.9
        assert (colour[class_map == 0].max(-1) < 120).mean() > 0.9


def test_folder_of_ade20k(tmp_path):
    write_masks(tmp_path, {"training": 3, "validation": 2}, masks="annotations", first=1)
    args = SegmentationDataArguments(dataset=str(tmp_path), train_split="training", reduce_labels=True)
    splits, classes, _ = load_semantic_segmentation(args, seed=0)
    assert classes == ["0", "1", "2"]
    class_map = annotated(splits["train"], args).class_map(0)
    expected = np.array(PIL.Image.open(tmp_path / "annotations" / "training" / "0.png")).astype(int) - 1
    assert (class_map == expected).all()
    assert class_map[0, 0] == UNCOUNTED


def test_without_validation_images_some_are_split_off(tmp_path):
    write_masks(tmp_path, {"train": 5})
    args = SegmentationDataArguments(dataset=str(tmp_path), validation_fraction=0.4)
    splits, *_ = load_semantic_segmentation(args, seed=0)
    again, *_ = load_semantic_segmentation(args, seed=0)
    paths = {split: [row["image"]["path"] for row in rows] for split, rows in splits.items()}
    assert {split: len(rows) for split, rows in paths.items()} == {"train": 3, "validation": 2}
    assert not set(paths["train"]) & set(paths["validation"])
    assert [row["image"]["path"] for row in again["validation"]] == paths["validation"]


def test_masks_of_a_palette_and_of_another_ignore_index(folder):
    mask = PIL.Image.new("P", (2, 2))
    mask.putpalette([10 * level for level in range(24)])
    mask.putdata([0, 1, 2, 7])
    mask.save(folder / "masks" / "train" / "0.png")
    PIL.Image.new("RGB", (2, 2)).save(folder / "images" / "train" / "0.jpg")
    args = SegmentationDataArguments(dataset=str(folder), ignore_index=7)
    rows = picture_rows(
        image=[stored_file(folder / "images" / "train" / "0.jpg")],
        mask=[stored_file(folder / "masks" / "train" / "0.png")],
    )
    assert annotated(rows, args).class_map(0).tolist() == [[0, 1], [2, UNCOUNTED]]


def table(folder, columns=("image", "annotation")) -> str:
    """A dataset as the hub has it: images and masks in one table, beside other columns."""
    mask = PIL.Image.fromarray(np.array([[0, 1], [1, 255]], dtype=np.uint8))
    rows = {columns[0]: [PIL.Image.new("RGB", (2, 2))] * 4, columns[1]: [mask] * 4, "scene": ["park"] * 4}
    features = Features({columns[0]: Image(), columns[1]: Image(), "scene": Value("string")})
    DatasetDict({"train": Dataset.from_dict(rows, features=features)})["train"].to_parquet(
        folder / "train-00000-of-00001.parquet"
    )
    return str(folder)


def test_table_of_images_and_masks(tmp_path):
    splits, classes, _ = load_semantic_segmentation(SegmentationDataArguments(dataset=table(tmp_path)), seed=0)
    assert classes == ["0", "1"]
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "validation": 1}
    assert annotated(splits["train"]).class_map(0).tolist() == [[0, 1], [1, UNCOUNTED]]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            ("image", "drawing"),
            {},
            r"--mask_column is not given: .*both needed. It has: image \(Image\), drawing \(Image\), scene",
        ),
        (
            ("picture", "mask"),
            {"image_column": "image"},
            r"--image_column image: .* It has: picture \(Image\), mask \(Image\), scene",
        ),
        (("image", "mask"), {"mask_column": "scene"}, r"--mask_column scene: the dataset has no such column of images"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, columns, options, message):
    with pytest.raises(ValueError, match=message):
        load_semantic_segmentation(SegmentationDataArguments(dataset=table(tmp_path, columns), **options), seed=0)


def other_size(folder):
    PIL.Image.new("L", (48, 41)).save(folder / "masks" / "train" / "2.png")


def out_of_range(folder):
    (folder / "classes.txt").write_text("ground\nred\n")


def without_mask(folder):
    (folder / "masks" / "train" / "1.png").unlink()


def broken_mask(folder):
    (folder / "masks" / "validation" / "1.png").write_bytes(b"\x89PNG broken")


def broken_image(folder):
    (folder / "images" / "validation" / "1.jpg").write_bytes(b"broken")


def in_colours(folder):
    PIL.Image.new("RGB", (48, 40), "red").save(folder / "masks" / "train" / "0.png")


def as_jpeg(folder):
    path = folder / "masks" / "train" / "0.png"
    PIL.Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def as_turned_jpeg(folder):
    exif = PIL.Image.Exif()
    exif[0x0112] = 1
    path = folder / "masks" / "train" / "0.png"
    PIL.Image.open(path).save(path.with_suffix(".jpg"), exif=exif)
    path.unlink()


def no_names_of_ade20k(folder):
    (folder / "objectInfo150.txt").write_text("Idx\tName\n")


def twice_the_same_mask(folder):
    path = folder / "masks" / "train" / "0.png"
    shutil.copy(path, path.with_suffix(".bmp"))


def twice_the_same_image(folder):
    path = folder / "images" / "train" / "0.jpg"
    shutil.copy(path, path.with_suffix(".bmp"))


def nothing_counts(folder):
    for path in (folder / "masks" / "validation").iterdir():
        PIL.Image.fromarray(np.full_like(np.asarray(PIL.Image.open(path)), 255)).save(path)


def names_in_another_encoding(folder):
    (folder / "classes.txt").write_bytes("gr\xfcn\nrot\nblau\n".encode("latin-1"))


def no_names(folder):
    (folder / "classes.txt").write_text("\n")


def one_class(folder):
    for path in (folder / "masks").rglob("*.png"):
        PIL.Image.fromarray(np.zeros_like(np.asarray(PIL.Image.open(path)))).save(path)


def no_masks(folder):
    shutil.rmtree(folder / "masks")
    (folder / "labels").mkdir()


def no_images(folder):
    shutil.rmtree(folder / "images")


def twice_the_same_name(folder):
    (folder / "classes.txt").write_text("ground\nred\nred\n")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (other_size, {}, r"The mask \S*train/2.png has 48 × 41 pixels, its image 48 × 40"),
        (out_of_range, {}, r"The mask \S*train/0.png has the number 2, which is no class. Classes are 0 to 1, .* 255"),
        (
            lambda folder: None,
            {"ignore_index": 0},
            "The masks have numbers up to 255: more than 255 classes",
        ),
        (without_mask, {}, r"1 of 4 images of \S*images/train have no mask .*: \S*train/1.jpg"),
        (broken_mask, {}, r"(?s)1 of 3 images can't be read.*mask \S*validation/1.png"),
        (broken_image, {}, r"(?s)1 of 3 images can't be read.*validation/1.jpg"),
        (in_colours, {}, r"1 of 7 masks are in colours, .*train/0.png for one"),
        (as_jpeg, {}, r"The mask \S*train/0.jpg is a JPEG, which changes numbers"),
        (as_turned_jpeg, {}, r"The mask \S*train/0.jpg is a JPEG, which changes numbers"),
        (no_names_of_ade20k, {}, "objectInfo150.txt has 0 names"),
        (twice_the_same_mask, {}, r"0\.(png|bmp) and \S*0\.(png|bmp) have one name"),
        (twice_the_same_image, {}, r"0\.(jpg|bmp) and \S*0\.(jpg|bmp) have one name"),
        (nothing_counts, {}, "No pixel of the 3 masks of the validation split counts: 255 is taken for pixels that do"),
        (names_in_another_encoding, {}, "classes.txt is not text in UTF-8"),
        (no_names, {}, "classes.txt has 0 names"),
        (one_class, {}, r"The masks have 1 class\(es\); two at least"),
        (no_masks, {}, "no masks in this folder.* FOLDER/images/train"),
        (no_images, {}, r"FOLDER/images/train.*It has: masks, masks/train, masks/validation\."),
        (twice_the_same_name, {}, r"classes.txt has 3 names, 2 of them different"),
        (lambda folder: None, {"class_names": "absent.txt"}, "--class_names absent.txt: there is no such file"),
        (lambda folder: None, {"train_split": "training"}, "--train_split training: .* It has: train, validation"),
    ],
)
def test_what_does_not_fit_is_named(folder, spoil, options, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder), **options), seed=0)


def test_row_of_a_table_is_named_by_its_number_in_the_table(tmp_path):
    """And not by that after validation images were split off."""
    mask = PIL.Image.fromarray(np.array([[0, 1], [1, 255]], dtype=np.uint8))
    for what, spoilt in (("mask", PIL.Image.new("L", (3, 3))), ("image", None)):
        columns = {"image": [PIL.Image.new("RGB", (2, 2))] * 10, "mask": [mask] * 10}
        columns[what] = [*columns[what][:7], spoilt, *columns[what][:2]]
        rows = Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}))
        (tmp_path / what).mkdir()
        rows.to_parquet(tmp_path / what / "train.parquet")
        with pytest.raises(
            ValueError, match=f"(row 7 of the train split: .*there is none|The {what} of row 7 has 3 × 3)"
        ):
            training_rows(tmp_path / what, verify_images=True)


def test_masks_that_are_not_read_beforehand_are_checked_in_training(folder):
    splits, *_ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder)), seed=0)
    other_size(folder)
    processor = SegformerImageProcessorPil()
    images = TrainingImages(splits["train"], **SETTINGS, image_processor=processor, augmentation=crops())
    with pytest.raises(ValueError, match=r"The mask \S*train/2.png has 48 × 41 pixels"):
        images[2]
    settings = {**SETTINGS, "num_classes": 2}
    images = EvaluationImages(splits["validation"], **settings, image_processor=processor, image_size=20)
    with pytest.raises(ValueError, match=r"The mask \S*validation/0.png has the number 2, which is no class"):
        images[0]


def test_classes_without_a_pixel_and_turned_images_are_told_of(folder, caplog):
    (folder / "classes.txt").write_text("\n".join([*SHAPES, "violet", "grey"]))
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    path = folder / "images" / "train" / "0.jpg"
    PIL.Image.open(path).save(path, exif=exif)
    load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder)), seed=0)
    assert "2 of 5 classes have no pixel in the training split: violet, grey." in caplog.text
    assert "1 of 7 images are shown turned or mirrored" in caplog.text


def test_names_of_ade20k_come_with_it(folder):
    rows = ["Idx\tRatio\tTrain\tVal\tName", *(f"{n + 1}\t0.1\t9\t9\t{name}" for n, name in enumerate(SHAPES))]
    (folder / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    _, classes, _ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder)), seed=0)
    assert classes == SHAPES


def test_a_name_that_is_no_dataset_is_named():
    with pytest.raises(ValueError, match="--dataset no/such: neither a folder here nor a dataset"):
        load_semantic_segmentation(SegmentationDataArguments(dataset="no/such"), seed=0)


def test_masks_without_image_are_left_out_with_a_word(folder, caplog):
    (folder / "images" / "train" / "3.jpg").unlink()
    splits, *_ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(folder)), seed=0)
    assert len(splits["train"]) == 3
    assert "1 masks" in caplog.text


def test_embedded_default_is_the_scenes(monkeypatch):
    monkeypatch.setattr(scene_class_maps, "NUM_SCENES", {"train": 3, "validation": 2, "test": 2})
    splits = scene_class_maps.digit_scene_maps()
    assert ["background", *(str(digit) for digit in range(10))] == scene_class_maps.SCENE_CLASSES
    scene = DigitScenes("test").scene(1)
    images = annotated(splits["test"])
    assert (images.class_map(1) == scene.class_map).all()
    assert images.image(1).tobytes() == scene.image.tobytes()


def crops(**changes):
    settings = {"image_size": 32, "scales": (0.5, 2.0), "crop_size": 24, "flip": True, "max_class_share": 1.0}
    return ScaleAndCrop(**{**settings, "fill": (9, 9, 9), **changes})


def grid(width: int, height: int) -> tuple[PIL.Image.Image, np.ndarray]:
    """Squares of 4 pixels whose colour is their class."""
    class_map = (np.arange(height)[:, None] // 8 * 5 + np.arange(width)[None] // 8).astype(np.int32)
    return PIL.Image.fromarray(np.repeat(8 * class_map[..., None], 3, -1).astype(np.uint8)), class_map


def test_image_and_class_map_are_scaled_cropped_and_mirrored_alike():
    image, class_map = grid(40, 32)
    filled, mirrored = 0, 0
    for seed in range(30):
        crop, classes = crops(scales=(0.5, 1.5))(image, class_map, Random(seed))
        assert (crop.size, classes.shape) == ((24, 24), (24, 24))
        levels = np.asarray(crop)[..., 0] / 8
        counted = classes != UNCOUNTED
        filled += not counted.all()
        assert (np.asarray(crop)[~counted] == 9).all()
        # Between two squares the image is interpolated.
        assert (np.abs(levels - classes)[counted] < 0.6).mean() > 0.55
        row = levels[counted.any(1)][0]
        mirrored += row[0] > row[len(row) // 2]
    assert 2 < filled < 20
    assert 5 < mirrored < 25
    again = crops(scales=(0.5, 1.5))(image, class_map, Random(29))
    assert again[0].tobytes() == crop.tobytes()
    assert (again[1] == classes).all()


def test_crops_of_a_single_class_are_drawn_again():
    class_map = np.zeros((32, 32), dtype=np.int32)
    class_map[:, 16:] = 1
    image = PIL.Image.new("RGB", (32, 32))
    within = {}
    for most in (0.75, 1.0):
        crop = crops(scales=(1, 1), crop_size=8, flip=False, max_class_share=most)
        zeros = np.array([(crop(image, class_map, Random(seed))[1] == 0).mean() for seed in range(40)])
        within[most] = (np.maximum(zeros, 1 - zeros) <= 0.75).mean()
    assert within[0.75] > 0.7
    assert within[1.0] < 0.4


def test_training_images_change_with_the_epoch_and_the_seed_alone(folder):
    rows = training_rows(folder)
    processor = SegformerImageProcessorPil()
    images = TrainingImages(rows, **SETTINGS, image_processor=processor, augmentation=crops())
    first = images[0]
    assert first["pixel_values"].shape == (3, 24, 24)
    assert set(first["labels"].unique().tolist()) <= {0, 1, 2, 255}
    assert (images[0]["pixel_values"] == first["pixel_values"]).all()
    images.epoch.fill_(1)
    assert (images[0]["pixel_values"] != first["pixel_values"]).any()


def test_evaluation_images_keep_their_truth(folder):
    rows = training_rows(folder)
    images = EvaluationImages(rows, **SETTINGS, image_processor=SegformerImageProcessorPil(), image_size=20)
    upright, lying = images[1], images[0]
    assert (upright["pixel_values"].shape, lying["pixel_values"].shape) == ((3, 24, 20), (3, 20, 24))
    assert lying["labels"].shape == (20, 24)
    assert (lying["truth"].numpy() == images.class_map(0)).all()
    assert lying["labels"][0, 0] in (0, 255)
    batch = collate([lying, images[2]])
    assert batch["pixel_values"].shape == (2, 3, 20, 24)
    mixed = collate([lying, upright])
    assert [tuple(values.shape) for values in mixed["pixel_values"]] == [(3, 20, 24), (3, 24, 20)]
    assert mixed["index"].tolist() == [0, 1]


def test_mask2former_gets_a_mask_for_each_class(folder):
    rows = training_rows(folder)
    images = annotated(rows)
    images.image_processor = Mask2FormerImageProcessorPil(ignore_index=255)
    class_map = images.class_map(0)
    inputs = images.inputs(images.image(0), class_map)
    assert inputs["class_labels"].tolist() == [0, 1, 2]
    for mask, label in zip(inputs["mask_labels"], inputs["class_labels"], strict=True):
        assert (mask.numpy()[:40, :48] == (class_map == label.item())).all()
        assert mask.sum() == (class_map == label.item()).sum()
    # An image of which nothing counts has no mask.
    empty = images.inputs(images.image(0), np.full_like(class_map, UNCOUNTED))
    assert len(empty["class_labels"]) == len(empty["mask_labels"]) == 0
