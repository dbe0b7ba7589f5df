"""The scenes of the demonstration as images with class maps."""

from collections.abc import Iterable

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict

from mona_peft.tasks.data.segmentation.loading import BACKGROUND
from mona_peft.tasks.data.stored import picture_rows, stored_png
from scripts.demonstration.scenes import NUM_SCENES, DigitScenes

SCENE_CLASSES = [BACKGROUND, *DigitScenes.classes]


def digit_scene_maps() -> DatasetDict:
    """Returns the splits `train`, `validation` and `test` of the embedded default, the same every time."""
    splits = {}
    for split, count in NUM_SCENES.items():
        scenes = map(DigitScenes(split).scene, range(count))
        splits[split] = scene_maps((scene.image, scene.class_map) for scene in scenes)
    return DatasetDict(splits)


def scene_maps(scenes: Iterable[tuple[PIL.Image.Image, np.ndarray]]) -> Dataset:
    """Returns pictures and their class maps, (H, W) and uint8, as a dataset of `image` and `mask`, not decoded."""
    pairs = [(stored_png(image), stored_png(PIL.Image.fromarray(class_map))) for image, class_map in scenes]
    images, masks = zip(*pairs, strict=True)
    return picture_rows(image=images, mask=masks)
