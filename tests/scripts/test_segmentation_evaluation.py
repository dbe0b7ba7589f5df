"""Metrics of semantic segmentation beside naive ones, and windows beside whole images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EvalPrediction, TrainingArguments
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.segmentation.masks import UNCOUNTED
from mona_peft.tasks.segmentation.evaluation import (
    SegmentationMetrics,
    SemanticSegmentationTrainer,
    confusion_matrix,
    segmentation_scores,
)
from mona_peft.tasks.segmentation.inference import windows

CLASSES = ["ground", "cat", "dog", "owl"]


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth with pixels that do not count, and a prediction; the last class is in neither."""
    random = np.random.default_rng(seed)
    truth = random.integers(UNCOUNTED, 3, (5, 7))
    return truth, np.where(random.random(truth.shape) < 0.5, np.maximum(truth, 0), random.integers(0, 3, truth.shape))


def naive_scores(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    pixels = [(t, p) for truth, predicted in pairs for t, p in zip(truth.flat, predicted.flat, strict=True) if t >= 0]
    iou = {}
    for number, name in enumerate(CLASSES):
        either = [pair for pair in pixels if number in pair]
        iou[name] = len([pair for pair in either if pair == (number, number)]) / len(either) if either else None
    known = [value for value in iou.values() if value is not None]
    accuracy = sum(t == p for t, p in pixels) / len(pixels)
    return {"mean_iou": sum(known) / len(known), "pixel_accuracy": accuracy, "iou": iou}


def test_metrics_of_many_images_equal_naive_ones():
    pairs = [maps(seed) for seed in range(6)]
    expected = naive_scores(pairs)
    metrics = SegmentationMetrics(CLASSES)
    matrices = torch.stack([confusion_matrix(*map(torch.from_numpy, pair), len(CLASSES)) for pair in pairs])
    for _ in range(2):  # the second evaluation begins anew
        assert metrics(EvalPrediction(predictions=matrices[:4], label_ids=None), compute_result=False) == {}
        scores = metrics(EvalPrediction(predictions=matrices[4:], label_ids=None), compute_result=True)
        assert scores == pytest.approx({name: expected[name] for name in ("mean_iou", "pixel_accuracy")})
        assert metrics.class_iou["owl"] is None
        assert metrics.class_iou == {name: pytest.approx(value) for name, value in expected["iou"].items()}


def test_metrics_of_a_known_case():
    truth = torch.tensor([[0, 0, 1, UNCOUNTED]])
    matrix = confusion_matrix(truth, torch.tensor([[0, 1, 1, 1]]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]]
    scores = segmentation_scores(matrix.numpy())
    assert scores["iou"].tolist() == [0.5, 0.5]
    assert scores["pixel_accuracy"] == pytest.approx(2 / 3)
    assert np.isnan(segmentation_scores(np.zeros((2, 2), dtype=int))["mean_iou"])


@pytest.mark.parametrize("size", [(12, 12), (12, 31), (40, 13), (5, 30)])
def test_windows_cover_an_image_and_stay_in_it(size):
    seen = np.zeros(size, dtype=int)
    for rows, columns in windows(*size, 12):
        seen[rows, columns] += 1
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(size[0], 12), min(size[1], 12))
    assert seen.min() == 1
    assert seen.max() <= 9


def test_neighbouring_windows_share_a_third_of_their_side():
    rows, columns = zip(*windows(20, 44, 12), strict=True)
    assert sorted({(part.start, part.stop) for part in rows}) == [(0, 12), (8, 20)]
    assert sorted({(part.start, part.stop) for part in columns}) == [(0, 12), (8, 20), (16, 28), (24, 36), (32, 44)]
    assert len(rows) == 2 * 5


class Brightness(nn.Module):
    """Scores classes by the brightness of a pixel relative to the mean of what it sees, at half the resolution."""

    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]))
        self.config = SimpleNamespace()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> SemanticSegmenterOutput:
        grey = pixel_values.mean(1, keepdim=True)
        scores = (grey - grey.mean((2, 3), keepdim=True)) * self.weight[:, None, None]
        scores = scores - self.weight.abs()[:, None, None] * 0.3
        loss = nn.functional.cross_entropy(scores, labels.long(), ignore_index=255)
        return SemanticSegmenterOutput(loss=loss, logits=nn.functional.avg_pool2d(scores, 2))


def trainer(tmp_path, **options) -> SemanticSegmentationTrainer:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    return SemanticSegmentationTrainer(
        model=Brightness(), args=args, processing_class=SegformerImageProcessorPil(), num_classes=3, **options
    )


def batch(count: int, height: int, width: int) -> dict[str, torch.Tensor]:
    labels = torch.randint(0, 3, (count, height, width))
    return {"pixel_values": torch.randn(count, 3, height, width), "labels": labels}


def test_one_window_is_the_whole_image(tmp_path):
    inputs, sizes = batch(2, 16, 24), [(16, 24), (33, 47)]
    whole, slide = trainer(tmp_path), trainer(tmp_path, eval_mode="slide", crop_size=24)
    loss, class_maps = whole.segmenter(whole.model, inputs, sizes)
    assert [tuple(class_map.shape) for class_map in class_maps] == sizes
    slide_loss, slide_maps = slide.segmenter(slide.model, inputs, sizes)
    torch.testing.assert_close(slide_loss, loss)
    # Scores that are given at half the resolution go through the size of the window first.
    agreement = [(a == b).float().mean().item() for a, b in zip(slide_maps, class_maps, strict=True)]
    assert agreement[0] == 1
    assert agreement[1] > 0.9


def test_windows_are_averaged_where_they_overlap(tmp_path):
    inputs = batch(1, 12, 20)
    slide = trainer(tmp_path, eval_mode="slide", crop_size=12)
    loss, (class_map,) = slide.segmenter(slide.model, inputs, [(12, 20)])
    total, counts, losses = torch.zeros(3, 12, 20), torch.zeros(12, 20), []
    for left in (0, 8):
        part = {name: values[..., left : left + 12] for name, values in inputs.items()}
        outputs = slide.model(**part)
        total[..., left : left + 12] += nn.functional.interpolate(outputs.logits, scale_factor=2, mode="bilinear")[0]
        counts[:, left : left + 12] += 1
        losses.append(outputs.loss)
    assert (class_map == (total / counts).argmax(0)).all()
    torch.testing.assert_close(loss, sum(losses) / 2)


def test_images_of_several_sizes_are_seen_one_by_one(tmp_path):
    one, other = batch(1, 16, 24), batch(1, 24, 16)
    whole = trainer(tmp_path)
    sizes = [(16, 24), (24, 16)]
    mixed = {name: [one[name][0], other[name][0]] for name in one}
    loss, class_maps = whole.segmenter(whole.model, mixed, sizes)
    singly = [whole.segmenter(whole.model, inputs, [size]) for inputs, size in zip((one, other), sizes, strict=True)]
    torch.testing.assert_close(loss, (singly[0][0] + singly[1][0]) / 2)
    assert all((class_map == maps_[0]).all() for class_map, (_, maps_) in zip(class_maps, singly, strict=True))
    step = whole.prediction_step(
        whole.model,
        {"index": torch.tensor([4, 7]), **mixed, "truth": [map_.clone() for map_ in class_maps]},
        prediction_loss_only=False,
    )
    assert [np.trace(matrix.numpy()) for matrix in step[1]] == [16 * 24] * 2
    assert step[2].tolist() == [4, 7]
