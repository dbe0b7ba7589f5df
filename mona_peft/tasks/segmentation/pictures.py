"""What a segmentation model makes of some images, as class maps over them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from mona_peft.tasks.data.segmentation.dataset import EvaluationImages
from mona_peft.tasks.data.segmentation.loading import BACKGROUND
from mona_peft.tasks.reporting.overlays import overlay_class_map, palette
from mona_peft.tasks.reporting.pictures import PredictionPictures
from mona_peft.tasks.segmentation.evaluation import SemanticSegmentationTrainer

NUM_PICTURES = 6


def segmentation_pictures(
    trainer: SemanticSegmentationTrainer, images: EvaluationImages, classes: Sequence[str]
) -> PredictionPictures:
    """Returns the callback that writes `predictions.png`: the first images, the truth, and predictions.

    Args:
        trainer: Holds the model, in whatever state it is when a picture is asked for.
        images: Images of a split.
        classes: Names of the classes; the one called `background` is left unpainted.
    """
    shown = range(min(NUM_PICTURES, len(images)))
    unpainted = [number for number, name in enumerate(classes) if name == BACKGROUND]
    colours = palette(len(classes))

    def draw(index: int, class_map: np.ndarray) -> PIL.Image.Image:
        return overlay_class_map(images.image(index), class_map, len(classes), unpainted)

    def predict() -> list[PIL.Image.Image]:
        return [draw(index, trainer.predict_class_map(images[index]).cpu().numpy()) for index in shown]

    columns = {
        "input": [images.image(index) for index in shown],
        "truth": [draw(index, images.class_map(index)) for index in shown],
    }
    legend = {name: colours[number] for number, name in enumerate(classes) if number not in unpainted}
    return PredictionPictures(Path(trainer.args.output_dir, "predictions.png"), columns, predict, legend)
