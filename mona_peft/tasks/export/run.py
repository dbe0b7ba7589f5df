"""Exports a model: written, run, compared with the model, and only then left where it is wanted."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor

from mona_peft.files.saving import unfinished_folder
from mona_peft.tasks.data.decoding import Decoding
from mona_peft.tasks.export.formats import FORMATS
from mona_peft.tasks.export.images import FixedSize, check_images
from mona_peft.tasks.export.program import INPUT, tensors_out
from mona_peft.tasks.export.verification import LIMITS, Verification, verify
from mona_peft.tasks.models.architectures import check_squares, patch_size_of
from mona_peft.tasks.models.patches import check_filled
from mona_peft.tasks.training.records import write_json

DESCRIPTION = "preprocessing.json"

REFUSED = {
    "retinanet": "torchvision finds its boxes image by image, as many as pass a threshold, and a graph has fixed "
    "numbers of both. `mona-peft predict` uses it; for a file choose another detector, such as rt_detr.",
}
"""Why models can't be exported that torch.export would only refuse after minutes and in words of its own, by type."""


class Disagreement(Exception):
    """The exported file does not give what the model gives."""


def export_model(
    model: nn.Module,
    image_processor: BaseImageProcessor,
    labels: Sequence[str],
    task: str,
    output_dir: Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    image_size: tuple[int, int] | None = None,
    images: Sequence[str] = (),
    dataset: str | None = None,
) -> tuple[list[Path], Verification, list[str]]:
    """Exports a model, with a description of what it takes and gives in `preprocessing.json` beside it.

    Args:
        model: In evaluation mode, on the CPU, in float32.
        image_processor: Of the model.
        labels: Names of the classes.
        task: Name of the task on the command line.
        output_dir: Where to.
        format: Name in `FORMATS`.
        precision: Of the weights.
        image_size: (height, width) of the images that the file takes. None: those of the image processor.
        images: Files and folders of images to check the file with.
        dataset: What the model was trained on, where there are none.

    Returns:
        The files, how they compare with the model, and what else is to be said.

    Raises:
        ValueError: Something is missing, the output directory has such a file already, or the model can't be exported.
        Disagreement: The file gives something else than the model, and is removed.
    """
    kind, model_type = FORMATS[format], model.config.model_type
    if model_type in REFUSED:
        raise ValueError(f"A model of type {model_type} can't be exported: {REFUSED[model_type]}")
    if precision not in kind.precisions:
        raise ValueError(f"--precision {precision}: --format {format} knows {', '.join(kind.precisions)}.")
    kind.check()
    present = [name for name in (kind.file, DESCRIPTION) if (output_dir / name).exists()]
    if present:
        raise ValueError(
            f"--output_dir {output_dir} has {' and '.join(present)} already. Choose another directory, or remove "
            "them yourself."
        )
    prepare = FixedSize(image_processor, image_size)
    check_squares(model.config, prepare.size)
    check_filled(prepare.size, patch_size_of(model.config), "--image_size")
    pictures, words = check_images(images, dataset, prepare.size, Decoding.of(prepare.image_processor))
    batch = prepare(pictures)
    exported = tensors_out(model, batch)

    with unfinished_folder(output_dir) as folder:
        said = kind.write(exported, batch, precision, folder)
        found = verify(exported.names, kind.load(folder), in_torch(exported), batch, LIMITS[precision])
        if not found.agrees:
            raise Disagreement(
                f"The file does not give what the model gives: outputs of {words} differ by {found.relative:.2g} of "
                f"their largest value, and {found.limit:g} is allowed in {precision}. It has been removed."
            )
        write_json(
            folder / DESCRIPTION,
            describe(exported.names, prepare, batch, labels, task)
            | {"precision": precision, "verification": {"images": words, **found.as_record()}},
        )
        written = sorted(folder.iterdir())
        for path in written:
            os.replace(path, output_dir / path.name)
    return [output_dir / path.name for path in written], found, [f"Checked with {words}.", *([said] if said else [])]


def in_torch(model: nn.Module) -> Any:
    """Returns what runs a model in PyTorch."""

    @torch.no_grad()
    def run(images: torch.Tensor) -> list:
        return [output.numpy() for output in model(images)]

    return run


MEANINGS = {
    "logits": "of each class: (batch, classes); for semantic segmentation (batch, classes, height, width), to be "
    "enlarged; for detection (batch, queries, classes)",
    "pred_boxes": "(batch, queries, 4): centre x, centre y, width, height as shares of the image's sides",
    "class_queries_logits": "(batch, queries, classes + 1): the last is that of no object",
    "masks_queries_logits": "(batch, queries, height, width): above 0 inside, to be enlarged",
}


def describe(
    names: Sequence[str], prepare: FixedSize, batch: torch.Tensor, labels: Sequence[str], task: str
) -> dict[str, Any]:
    """Returns what an exported file takes and gives."""
    return {
        "task": task,
        "labels": list(labels),
        "input": {"name": INPUT, "type": "float32", "shape": ["batch", *batch.shape[1:]], **prepare.describe()},
        "outputs": [{"name": name, "type": "float32", "meaning": MEANINGS[name]} for name in names],
    }
