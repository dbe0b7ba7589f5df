"""Images that are held out or chosen: each part shows every class, as far as that goes."""

import numpy as np
import pytest
from PIL import Image

from mona_peft.tasks.data.segmentation.loading import SegmentationDataArguments, load_semantic_segmentation
from mona_peft.tasks.data.segmentation.survey import MOST_SHARED_OUT
from tests.folders import write_masks


def with_rare_class(folder, count: int, rare: int):
    """Flat images and masks, `rare` of which show the class 2."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        mask = np.zeros((8, 8), np.uint8)
        mask[:4] = 2 if number < rare else 1
        Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03}.png")
    return folder


def shows_rare(rows) -> int:
    return sum(int((np.asarray(Image.open(row["mask"]["path"])) == 2).any()) for row in rows)


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_shared_out_by_their_rarest_class(tmp_path, seed):
    folder = with_rare_class(tmp_path, count=40, rare=8)
    args = SegmentationDataArguments(
        dataset=str(folder), validation_fraction=0.25, test_fraction=0.25, max_train_samples=10
    )
    splits, *_ = load_semantic_segmentation(args, seed)
    assert {name: (len(rows), shows_rare(rows)) for name, rows in splits.items()} == {
        "train": (10, 2),
        "validation": (10, 2),
        "test": (10, 2),
    }
    assert all(rows.column_names == ["image", "mask"] for rows in splits.values())
    assert MOST_SHARED_OUT > 40


@pytest.mark.parametrize(("option", "split"), [("max_train_samples", "train"), ("max_eval_samples", "validation")])
def test_no_more_images_than_asked_for_and_the_same_by_seed(tmp_path, option, split):
    write_masks(tmp_path, {"train": 5, "validation": 5})
    splits, *_ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(tmp_path), **{option: 2}), 3)
    again, *_ = load_semantic_segmentation(SegmentationDataArguments(dataset=str(tmp_path), **{option: 2}), 3)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 5, "validation": 5} | {split: 2}
    assert splits[split]["image"] == again[split]["image"]
    with pytest.raises(ValueError, match=f"--{option} 0: give a whole number"):
        load_semantic_segmentation(SegmentationDataArguments(dataset=str(tmp_path), **{option: 0}), 3)
