"""What a trained model says of images, a task each: from images in RGB to results in pixels of these images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedConfig

from mona_peft.tasks.data.objects.detection import stack_images
from mona_peft.tasks.data.segmentation.dataset import collate, resize_shorter_side
from mona_peft.tasks.objects.detections import find_boxes, find_masks
from mona_peft.tasks.prediction.merging import Window, join_class_maps, merge_objects
from mona_peft.tasks.segmentation.inference import Segmenter

Size = tuple[int, int]
"""(height, width) in pixels."""


Threshold = float | dict[str, float]

Preparation = Callable[[PIL.Image.Image], dict[str, torch.Tensor]]
"""From an image to what the model takes of it: `pixel_values` (3, H, W), and more where it needs more."""


def prepare_image(image_processor: BaseImageProcessor, image: PIL.Image.Image) -> dict[str, torch.Tensor]:
    """Prepares an image by the image processor alone."""
    return {"pixel_values": image_processor(image, return_tensors="pt")["pixel_values"][0]}


def prepare_at_length(
    image_processor: BaseImageProcessor, length: int | None, image: PIL.Image.Image
) -> dict[str, torch.Tensor]:
    """Prepares an image whose shorter side is to have a length in pixels; without it, by the image processor alone."""
    if length is None:
        inputs = image_processor(image, return_tensors="pt")
    else:
        inputs = image_processor(resize_shorter_side(image, length), do_resize=False, return_tensors="pt")
    return {name: values[0] for name, values in inputs.items() if name in ("pixel_values", "pixel_mask")}


class Predictor(ABC):
    """Predicts batches of images as the model was evaluated in training.

    Args:
        model: On its device, in evaluation mode.
        image_processor: Of the model.
        labels: Names of the classes.
        settings: How images were prepared in training: arguments of the command, by name.
        threshold: Least score of what is found; by the name of the class where each has its own.
    """

    in_windows = False
    """Whether large images can be predicted in windows."""

    whole_too = False
    """Whether windows need the whole image beside them, for what is larger than they are."""

    finds_objects = False
    """Whether results are objects, as COCO's format has them."""

    default_threshold: Threshold | None = None
    """None: nothing is left out by its score."""

    def __init__(
        self,
        model: nn.Module,
        image_processor: BaseImageProcessor,
        labels: Sequence[str],
        settings: Mapping[str, Any],
        threshold: Threshold | None = None,
    ) -> None:
        self.model = model
        self.image_processor = image_processor
        self.labels = list(labels)
        self.settings = settings
        self.threshold = self.default_threshold if threshold is None else threshold
        self.prepare = self.preparation()

    @property
    def config(self) -> PreTrainedConfig:
        """Config of the model, which an adapted model has in its base."""
        return getattr(self.model, "base_model", self.model).config

    def preparation(self) -> Preparation:
        """Returns what prepares an image; without the model, as it is sent to other processes."""
        return partial(prepare_image, self.image_processor)

    def collate(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Makes a batch of prepared images."""
        return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}

    @torch.no_grad()
    def __call__(self, samples: Sequence[dict[str, torch.Tensor]], sizes: Sequence[Size]) -> list[Any]:
        """Returns the result of each prepared image, whose size was `sizes`."""
        device = next(self.model.parameters()).device
        batch = {
            name: value.to(device) if isinstance(value, torch.Tensor) else [part.to(device) for part in value]
            for name, value in self.collate(samples).items()
        }
        return self.results(batch, sizes)

    @abstractmethod
    def results(self, batch: dict[str, Any], sizes: Sequence[Size]) -> list[Any]:
        """Returns what the model finds in each image of a batch."""

    def merge(self, parts: Sequence[Any], windows: Sequence[Window], size: Size) -> Any:
        """Returns the result of an image from those of its windows."""
        raise NotImplementedError

    @abstractmethod
    def line(self, result: Any, size: Size) -> dict[str, Any]:
        """Returns a result as it is written, in JSON."""


class ClassPredictor(Predictor):
    """Predicts the class of an image, or its classes where a model may see several. Results are scores, (num_classes,).

    The problem type of the model's config says which: `multi_label_classification` is several.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.several = self.config.problem_type == "multi_label_classification"
        if self.several and not isinstance(self.threshold, dict):
            self.threshold = dict.fromkeys(self.labels, 0.5 if self.threshold is None else self.threshold)
        if not self.several and self.threshold is not None:
            raise ValueError(
                f"--threshold {self.threshold}: every image gets the class of highest score. Only a model whose "
                "images may have several classes has a threshold."
            )

    def results(self, batch: dict[str, Any], sizes: Sequence[Size]) -> list[np.ndarray]:
        """Returns the scores of each image."""
        logits = self.model(**batch).logits.float()
        return list((logits.sigmoid() if self.several else logits.softmax(-1)).cpu().numpy())

    def line(self, result: np.ndarray, size: Size) -> dict[str, Any]:
        """Returns the class and its score, or the classes, and the scores of all."""
        scores = {label: round(float(score), 6) for label, score in zip(self.labels, result, strict=True)}
        if self.several:
            return {"labels": [label for label in scores if scores[label] >= self.threshold[label]], "scores": scores}
        best = self.labels[int(result.argmax())]
        return {"label": best, "score": scores[best], "scores": scores}


class BoxPredictor(Predictor):
    """Predicts objects with their boxes. Results are lists of entries in COCO's format of results."""

    in_windows = whole_too = finds_objects = True
    default_threshold = 0.5
    key = "boxes"

    def collate(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Makes a batch of images, those of several sizes filled up, with a mask that says so."""
        return stack_images([sample["pixel_values"] for sample in samples])

    def results(self, batch: dict[str, Any], sizes: Sequence[Size]) -> list[list[dict[str, Any]]]:
        """Returns what is found in each image, the surest first."""
        return find_boxes(self.image_processor, self.model(**batch), sizes, self.threshold)

    def merge(
        self, parts: Sequence[list[dict[str, Any]]], windows: Sequence[Window], size: Size
    ) -> list[dict[str, Any]]:
        """Joins what was found in windows, objects that several have seen counting once."""
        return merge_objects(parts, windows, size)

    def line(self, result: list[dict[str, Any]], size: Size) -> dict[str, Any]:
        """Returns the objects, the surest first, with their boxes in pixels."""
        entries = sorted(result, key=lambda entry: -entry["score"])
        return {"height": size[0], "width": size[1], self.key: [self._entry(entry) for entry in entries]}

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {
            "label": self.labels[entry["category_id"]],
            "score": round(entry["score"], 6),
            "box": [round(edge, 2) for edge in entry["bbox"]],
        }


class InstancePredictor(BoxPredictor):
    """Predicts objects with their masks. Results are lists of entries in COCO's format of results."""

    key = "segments"

    def results(self, batch: dict[str, Any], sizes: Sequence[Size]) -> list[list[dict[str, Any]]]:
        """Returns what is found in each image, the surest first."""
        input_size = tuple(batch["pixel_values"].shape[-2:])
        return find_masks(self.image_processor, self.model(**batch), input_size, sizes, self.threshold)

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        rle = entry["segmentation"]
        return {**super()._entry(entry), "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}


class ClassMapPredictor(Predictor):
    """Predicts the class of every pixel. Results are class maps, (H, W)."""

    in_windows = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.threshold is not None:
            raise ValueError(f"--threshold {self.threshold}: every pixel gets the class of highest score.")
        mode = {name: self.settings[name] for name in ("eval_mode", "crop_size") if self.settings.get(name)}
        self.segmenter = Segmenter(self.image_processor, len(self.labels), **mode)

    def preparation(self) -> Preparation:
        """Returns what prepares an image in the size in which images were evaluated in training."""
        return partial(prepare_at_length, self.image_processor, self.settings.get("image_size"))

    def collate(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Makes a batch: of images of several sizes a list."""
        return collate(samples)

    def results(self, batch: dict[str, Any], sizes: Sequence[Size]) -> list[np.ndarray]:
        """Returns the class map of each image."""
        dtype = np.uint8 if len(self.labels) <= 256 else np.uint16
        return [map_.cpu().numpy().astype(dtype) for map_ in self.segmenter(self.model, batch, sizes)[1]]

    def merge(self, parts: Sequence[np.ndarray], windows: Sequence[Window], size: Size) -> np.ndarray:
        """Lays the class maps of windows together."""
        return join_class_maps(parts, windows, size)

    def line(self, result: np.ndarray, size: Size) -> dict[str, Any]:
        """Returns the share of the pixels that each class has that occurs."""
        shares = np.bincount(result.ravel(), minlength=len(self.labels)) / result.size
        named = {label: round(float(share), 6) for label, share in zip(self.labels, shares, strict=True) if share}
        return {"height": size[0], "width": size[1], "classes": named}


PREDICTORS: dict[str, type[Predictor]] = {
    "image-classification": ClassPredictor,
    "semantic-segmentation": ClassMapPredictor,
    "object-detection": BoxPredictor,
    "instance-segmentation": InstancePredictor,
}
"""By the names of the tasks on the command line."""
