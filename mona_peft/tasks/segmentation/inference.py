"""Class maps from a semantic segmentation model that sees whole images, or windows whose scores are averaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import BaseImageProcessor
from transformers.modeling_outputs import SemanticSegmenterOutput

from mona_peft.tasks.data.segmentation.dataset import IGNORE_INDEX, collate
from mona_peft.tasks.models.architectures import patch_size_of

STRIDE = 2 / 3
"""From one window to the next, as a share of the window's side."""


@dataclass
class Segmenter:
    """Predicts class maps, as a trained model is evaluated and used.

    Attributes:
        image_processor: Of the model.
        num_classes: Number of classes.
        eval_mode: `whole`: the model sees whole images. `slide`: windows of `crop_size`, whose scores are averaged
            where they overlap.
        crop_size: Side of a window in pixels.
    """

    image_processor: BaseImageProcessor
    num_classes: int
    eval_mode: Literal["whole", "slide"] = "whole"
    crop_size: int | None = None

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, inputs: dict[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Predicts class maps.

        Args:
            model: In evaluation mode.
            inputs: Batch as `collate` makes it, on the model's device, with or without labels.
            sizes: (H, W) of each class map.

        Returns:
            The model's loss, averaged over images or windows, None without labels, and the class maps.
        """
        even = isinstance(inputs["pixel_values"], torch.Tensor)
        if even and self.eval_mode == "whole":
            batches = [inputs]
        else:
            batches = [collate([{name: values[i] for name, values in inputs.items()}]) for i in range(len(sizes))]
        losses, class_maps = [], []
        for batch in batches:
            outputs = self._score(model, batch) if self.eval_mode == "whole" else self._slide(model, batch)
            losses.append(outputs.loss)
            some = sizes[len(class_maps) : len(class_maps) + len(batch["pixel_values"])]
            if self.eval_mode == "slide":
                class_maps += [_resize(outputs.logits, size).argmax(1)[0] for size in some]
            else:
                class_maps += self.image_processor.post_process_semantic_segmentation(outputs, list(some))
        return _mean(losses), class_maps

    def _score(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        """Calls the model, whose plain ViT would drop the rows and columns that fill no patch, on padded images."""
        # A wrapper of several processes has no config, the model in it has.
        config = next((module.config for module in model.modules() if hasattr(module, "config")), None)
        patch_size = patch_size_of(config)
        height, width = batch["pixel_values"].shape[-2:]
        below, right = -height % patch_size, -width % patch_size
        if not (below or right):
            return model(**batch)
        # Zero is the mean of normalised pixels.
        fill = {"labels": IGNORE_INDEX}
        outputs = model(
            **{
                name: nn.functional.pad(values, (0, right, 0, below), value=fill.get(name, 0))
                for name, values in batch.items()
            }
        )
        logits = _resize(outputs.logits, (height + below, width + right))
        return SemanticSegmenterOutput(loss=outputs.loss, logits=logits[..., :height, :width])

    def _slide(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> SemanticSegmenterOutput:
        height, width = batch["pixel_values"].shape[-2:]
        logits = batch["pixel_values"].new_zeros(1, self.num_classes, height, width)
        counts, losses = torch.zeros_like(logits[:, :1]), []
        for rows, columns in windows(height, width, self.crop_size):
            window = _window(batch, rows, columns)
            outputs = self._score(model, window)
            logits[..., rows, columns] += _resize(pixel_scores(outputs).float(), window["pixel_values"].shape[-2:])
            counts[..., rows, columns] += 1
            losses.append(outputs.loss)
        return SemanticSegmenterOutput(loss=_mean(losses), logits=logits / counts)


def pixel_scores(outputs: Any) -> torch.Tensor:
    """Returns scores of the classes of pixels, (B, C, h, w): a model's own, or those of the masks of its queries.

    A pixel's score of a class is the sum over the queries of how sure the mask is of the pixel, times how sure the
    query is of the class (Mask2Former, arXiv:2112.01527).
    """
    if "logits" in outputs:
        return outputs.logits
    classes = outputs.class_queries_logits.softmax(-1)[..., :-1]  # the last is that of no class
    return torch.einsum("bqc,bqhw->bchw", classes, outputs.masks_queries_logits.sigmoid())


def _window(batch: dict[str, Any], rows: slice, columns: slice) -> dict[str, Any]:
    """Returns a window of a batch of one image; of masks of classes, those that have pixels in it."""
    window = {name: values[..., rows, columns] for name, values in batch.items() if isinstance(values, torch.Tensor)}
    if "mask_labels" in batch:
        (masks,), (classes,) = batch["mask_labels"], batch["class_labels"]
        masks = masks[..., rows, columns]
        seen = masks.flatten(1).any(1)
        window |= {"mask_labels": [masks[seen]], "class_labels": [classes[seen]]}
    return window


def _resize(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)


def _mean(losses: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Returns the mean of those that are numbers; None where there are no labels."""
    return None if None in losses else torch.stack(losses).float().nanmean()


def windows(height: int, width: int, side: int, stride: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Yields the rows and columns of windows of `side` pixels that cover an image; the last ones end at its edges.

    Args:
        height: Of the image.
        width: Of the image.
        side: Of a window.
        stride: From one window to the next, in pixels; without it `STRIDE` of a side.
    """
    stride = stride or max(1, int(side * STRIDE))
    for top in _starts(height, side, stride):
        for left in _starts(width, side, stride):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _starts(length: int, side: int, stride: int) -> list[int]:
    last = max(0, length - side)
    return [*range(0, last, stride), last]
