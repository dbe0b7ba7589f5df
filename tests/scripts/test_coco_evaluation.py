"""Average precision of cases computed by hand, and evaluation on one and on two processes."""

import json

import pytest
from datasets import Dataset
from faster_coco_eval.core import mask as mask_api

from mona_peft.tasks.data.objects.loading import objects_features
from mona_peft.tasks.objects.evaluation import BOXES_AND_MASKS, average_precisions
from tests import coco_run
from tests.script_runs import TORCHRUN, run_python

SIZE = 200


def rectangle(box: list[float]) -> str:
    left, top, width, height = box
    corners = [left, top, left + width, top, left + width, top + height, left, top + height]
    return mask_api.merge(mask_api.frPyObjects([corners], SIZE, SIZE))["counts"].decode()


def truth(*images: list[tuple[int, list[float]]], crowd: tuple[int, ...] = ()) -> Dataset:
    """Images of 200 x 200 with objects of (class, box); those numbered in `crowd`, over all images, are crowds."""
    rows, number = [], 0
    for image_id, objects in enumerate(images):
        boxes = [box for _, box in objects]
        rows.append(
            {
                "image": None,
                "image_id": 5 + image_id,
                "width": SIZE,
                "height": SIZE,
                "objects": {
                    "bbox": boxes,
                    "category": [label for label, _ in objects],
                    "area": [box[2] * box[3] for box in boxes],
                    "iscrowd": [number + index in crowd for index in range(len(boxes))],
                    "mask": [rectangle(box) for box in boxes],
                },
            }
        )
        number += len(boxes)
    return Dataset.from_list(rows, features=objects_features(["a", "b"], with_masks=True))


def found(label: int, box: list[float], score: float) -> dict:
    return {
        "category_id": label,
        "bbox": box,
        "score": score,
        "segmentation": {"size": [SIZE, SIZE], "counts": rectangle(box).encode()},
    }


BOX, OTHER, LARGE = [10, 10, 20, 20], [100, 100, 40, 40], [0, 0, 100, 100]


@pytest.mark.parametrize(
    ("rows", "detections", "expected"),
    [
        pytest.param(
            truth([(0, BOX)]), {5: [found(0, BOX, 0.5)]}, {"ap": 1, "ap50": 1, "ap75": 1, "ap_small": 1}, id="exact"
        ),
        # Intersection over union of 20 x 16 in 20 x 20: 0.8, enough for the thresholds 0.50, 0.55, ..., 0.80, 7 of 10.
        pytest.param(
            truth([(0, BOX)]),
            {5: [found(0, [10, 10, 20, 16], 0.5)]},
            {"ap": 0.7, "ap50": 1, "ap75": 1, "ap_small": 0.7},
            id="shifted",
        ),
        # Of two objects one is found, behind a wrong detection: precision 1/2 up to a recall of 1/2, which is at 51 of
        # the 101 points of recall.
        pytest.param(
            truth([(0, BOX), (0, OTHER)]),
            {5: [found(0, [150, 10, 20, 20], 0.9), found(0, BOX, 0.5)]},
            {"ap": 51 / 202, "ap50": 51 / 202, "ap75": 51 / 202, "ap_medium": 0},
            id="one of two",
        ),
        pytest.param(truth([(0, BOX)]), {5: []}, {"ap": 0, "ap50": 0, "ap75": 0, "ap_small": 0}, id="nothing found"),
        # The second class is not found: the mean over classes.
        pytest.param(
            truth([(0, BOX)], [(1, OTHER)]),
            {5: [found(0, BOX, 0.5)], 6: [found(0, OTHER, 0.1)]},
            {"ap": 0.5, "ap_small": 1, "ap_medium": 0},
            id="wrong class",
        ),
        # An image without objects: what is found there with a higher score halves the precision.
        pytest.param(
            truth([(0, LARGE)], []),
            {5: [found(0, LARGE, 0.5)], 6: [found(0, BOX, 0.9)]},
            {"ap": 0.5, "ap_large": 1},
            id="empty image",
        ),
        # What lies in a crowd counts neither for nor against.
        pytest.param(
            truth([(0, BOX), (0, LARGE)], crowd=(1,)),
            {5: [found(0, BOX, 0.5), found(0, [50, 50, 20, 20], 0.9)]},
            {"ap": 1, "ap_small": 1},
            id="crowd",
        ),
        # A second detection of the same object is wrong; it comes last and costs nothing.
        pytest.param(truth([(0, BOX)]), {5: [found(0, BOX, 0.5), found(0, BOX, 0.4)]}, {"ap": 1}, id="found twice"),
        # Only the 100 of highest score count: the hundredth does, the next one does not.
        pytest.param(
            truth([(0, BOX)]),
            {5: [found(0, BOX, 0.1), *[found(0, OTHER, 0.9)] * 99]},
            {"ap": 0.01},
            id="hundred",
        ),
        # ... of all classes together, where COCO's own code would count as many of each.
        pytest.param(
            truth([(0, BOX)]),
            {5: [found(0, BOX, 0.1), *[found(1, OTHER, 0.9)] * 100]},
            {"ap": 0},
            id="hundred of all classes",
        ),
        pytest.param(
            truth([(0, BOX)]),
            {5: [found(0, BOX, 0.1), *[found(0, OTHER, 0.9)] * 100]},
            {"ap": 0},
            id="hundred and one",
        ),
    ],
)
def test_average_precision_by_hand(rows, detections, expected):
    metrics = average_precisions(rows, detections, BOXES_AND_MASKS)
    for prefix in BOXES_AND_MASKS:
        of_kind = {name: metrics[f"{prefix}_{name}"] for name in expected}
        assert of_kind == pytest.approx(expected, abs=1e-6)


def test_masks_are_compared_as_masks():
    """A mask of half of its box: the box is right, the mask too small by half."""
    half = found(0, BOX, 0.5)
    half["segmentation"]["counts"] = rectangle([10, 10, 20, 10]).encode()
    metrics = average_precisions(truth([(0, BOX)]), {5: [half]}, BOXES_AND_MASKS)
    assert (metrics["box_ap"], metrics["mask_ap"], metrics["mask_ap50"]) == pytest.approx((1, 0.1, 1))


def test_sizes_without_objects_are_left_out():
    metrics = average_precisions(truth([(0, BOX)]), {5: [found(0, BOX, 0.5)]})
    assert metrics.keys() == {"box_ap", "box_ap50", "box_ap75", "box_ap_small"}


def test_two_processes_evaluate_as_one(tmp_path):
    coco_run.write_data(tmp_path / "data")
    expected = coco_run.evaluate(tmp_path / "data", tmp_path / "run")
    assert expected["eval_mask_ap"] != expected["eval_box_ap"]
    assert 0.2 < expected["eval_box_ap"] < 0.9
    run_python(*TORCHRUN, "tests.coco_run", str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"metrics{rank}.json").read_text()) == expected
    # The mean of both processes' losses, whose gradients are averaged so too, is the loss of one process.
    first, second = (json.loads((tmp_path / f"losses{rank}.json").read_text()) for rank in range(2))
    for name, loss in coco_run.losses(tmp_path / "run", slice(0, 4)).items():
        assert (first[name] + second[name]) / 2 == pytest.approx(loss, rel=1e-4), name
