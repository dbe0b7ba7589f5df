"""What a model makes of some validation images before, early in and after training, in one picture that grows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mona_peft.tasks.reporting.overlays import save_panel


class PredictionPictures(TrainerCallback):
    """Writes a column of predictions when asked to, and by itself at the first evaluation.

    Args:
        path: Of the PNG.
        columns: Inputs and truth, one picture an image, by the titles of their columns.
        predict: Returns one picture of the present model's prediction an image.
        legend: Colours (3,) by what they stand for.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Sequence[PIL.Image.Image]],
        predict: Callable[[], Sequence[PIL.Image.Image]],
        legend: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.path = path
        self.columns = dict(columns)
        self.predict = predict
        self.legend = legend
        self.evaluated = False

    def add(self, title: str) -> None:
        """Adds the present model's predictions under a title."""
        self.columns[title] = self.predict()
        save_panel(self.columns, self.path, self.legend)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Adds the predictions at the first evaluation."""
        if state.is_world_process_zero and not self.evaluated:
            self.add(f"epoch {state.epoch:.3g}")
        self.evaluated = True
