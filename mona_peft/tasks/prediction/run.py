"""Predicts many images: in batches, on one process or several, going on where it was stopped."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mona_peft.tasks.data.decoding import Decoding
from mona_peft.tasks.data.stored import UNREADABLE
from mona_peft.tasks.prediction.inputs import InputImage
from mona_peft.tasks.prediction.merging import Window, image_windows
from mona_peft.tasks.prediction.output import PredictionFile
from mona_peft.tasks.prediction.pictures import DRAW, mask_image
from mona_peft.tasks.prediction.predictors import Predictor
from mona_peft.tasks.training.run_directory import replace_file

MASKS, PICTURES = "masks", "pictures"

FEW_IMAGES = 32
"""Of so few images a process of its own that reads them would begin when they are done."""

MAX_WORKERS = 8


@dataclass
class Prepared:
    """An image as a worker hands it over.

    Attributes:
        image: The image in RGB; None if it can't be read.
        error: Why it can't be read.
        samples: What the model takes of the image, or of each of its windows.
        windows: Where these lie.
    """

    image: PIL.Image.Image | None
    error: str | None
    samples: list[dict[str, torch.Tensor]]
    windows: list[Window]


class _Images(Dataset):
    """Reads and prepares images."""

    def __init__(self, inputs: Sequence[InputImage], predictor: Predictor, tile_size: int | None, overlap: float):
        self.inputs = inputs
        self.prepare = predictor.prepare
        self.decoding = Decoding.of(predictor.image_processor)
        self.whole_too = predictor.whole_too
        self.tile_size = tile_size
        self.overlap = overlap

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Prepared:
        try:
            image = self.inputs[index].read(self.decoding)
            whole = (0, 0, *image.size)
            windows = [whole]
            if self.tile_size is not None and max(image.size) > self.tile_size:
                tiles = list(image_windows(*image.size, self.tile_size, self.overlap))
                windows = [whole, *tiles] if self.whole_too else tiles
            parts = (image if window == whole else image.crop(window) for window in windows)
            return Prepared(image, None, [self.prepare(part) for part in parts], windows)
        except UNREADABLE as error:
            return Prepared(None, f"{type(error).__name__}: {error}", [], [])


def predict_images(
    predictor: Predictor,
    task: str,
    inputs: Sequence[InputImage],
    output_dir: Path,
    settings: dict[str, Any],
    *,
    batch_size: int = 8,
    num_workers: int | None = None,
    tile_size: int | None = None,
    tile_overlap: float = 0.2,
    pictures: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Predicts images and writes what was found. Images that `predictions.jsonl` has already are left out.

    Args:
        predictor: Of the task.
        task: Name of the task on the command line.
        inputs: The images.
        output_dir: Where to.
        settings: What the predictions depend on, as `PredictionFile` takes it.
        batch_size: Images, or windows, that a process gives the model at once.
        num_workers: Processes that read images, for each process that predicts. None: by their number and the cores'.
        tile_size: Side in pixels of the windows in which larger images are predicted.
        tile_overlap: Share of a window that its neighbour sees too.
        pictures: Whether to draw what was found.

    Returns:
        The lines of all images, and why images can't be read, by their path.
    """
    state = PartialState()
    # What is there is read by one process, before another looks at it.
    file = PredictionFile(output_dir, settings) if state.is_main_process else None
    done = {line["image"] for line in _from_main(list(file.lines) if file else None)}
    left = [image for image in inputs if str(image.path) not in done]
    # Every process takes a batch in turn, and all as many, with none at the end where they don't come out even.
    batches = [range(start, min(start + batch_size, len(left))) for start in range(0, len(left), batch_size)]
    batches += [range(0)] * (-len(batches) % state.num_processes)
    own = batches[state.process_index :: state.num_processes]
    loader = DataLoader(
        _Images(left, predictor, tile_size, tile_overlap),
        batch_sampler=[list(batch) for batch in own],
        collate_fn=list,
        num_workers=_workers(len(left), state.num_processes) if num_workers is None else num_workers,
    )
    errors: dict[str, str] = {}
    with tqdm(total=len(inputs), initial=len(inputs) - len(left), desc="Predicting", disable=_quiet(state)) as bar:
        for batch, prepared in zip(own, loader, strict=True):
            found: list[tuple[str, dict[str, Any] | str]] = []
            readable = [(left[row], image) for row, image in zip(batch, prepared, strict=True) if image.error is None]
            found += [
                (str(left[row].path), image.error) for row, image in zip(batch, prepared, strict=True) if image.error
            ]
            results = _results(predictor, [image for _, image in readable], batch_size)
            for (source, image), result in zip(readable, results, strict=True):
                line = {"image": str(source.path), **predictor.line(result, image.image.size[::-1])}
                if task == "semantic-segmentation":
                    line["mask"] = f"{MASKS}/{source.name}.png"
                    mask = mask_image(result, len(predictor.labels))
                    _save(mask, output_dir / line["mask"])
                if pictures:
                    picture = DRAW[task](image.image, result, predictor.labels)
                    _save(picture, output_dir / PICTURES / f"{source.name}.jpg", quality=90)
                found.append((str(source.path), line))
            found = gather_object(found)
            if file is not None:
                file.append([line for _, line in found if isinstance(line, dict)])
            errors |= {path: error for path, error in found if isinstance(error, str)}
            bar.update(len(found))
    return file.lines if file else [], errors


def _results(predictor: Predictor, images: Sequence[Prepared], batch_size: int) -> Iterator[Any]:
    """Returns the result of each image, those of windows joined."""
    samples = [sample for image in images for sample in image.samples]
    sizes = [(bottom - top, right - left) for image in images for left, top, right, bottom in image.windows]
    found: list[Any] = []
    for start in range(0, len(samples), batch_size):
        some = slice(start, start + batch_size)
        found += predictor(samples[some], sizes[some])
    for image in images:
        parts, found = found[: len(image.windows)], found[len(image.windows) :]
        yield parts[0] if len(parts) == 1 else predictor.merge(parts, image.windows, image.image.size[::-1])


def _from_main(value: Any) -> Any:
    """Returns what the first process gives, on all."""
    return gather_object([value])[0] if PartialState().num_processes > 1 else value


def _workers(count: int, num_processes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if count <= FEW_IMAGES else min(MAX_WORKERS, max(1, cores // num_processes - 1))


def _quiet(state: PartialState) -> bool | None:
    """Whether there is no bar: on all processes but one, and where nobody watches."""
    return None if state.is_local_main_process and sys.stderr is not None else True


def _save(picture: PIL.Image.Image, path: Path, **options: Any) -> None:
    with replace_file(path) as new:
        picture.save(new, **options)
