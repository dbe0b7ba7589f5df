"""What is made of the table of a task: images as the arguments want them."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from mona_peft.tasks.data.stored import stored_png
from mona_peft.tasks.training.setup import Data, find_training, prepare_images

COUNT = 40


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 0.2, 0.8), (False, 0, 0)])
@pytest.mark.parametrize("task", ["image-classification", "semantic-segmentation"])
def test_images_to_train_on_are_mirrored_where_that_is_wanted_and_others_never(task, flip, least, most):
    """Images that are brighter at their right edge."""
    ramp = PILImage.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))).convert("RGB")
    stored = [stored_png(ramp)] * COUNT
    if task == "image-classification":
        features = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b"])})
        rows = Dataset.from_dict({"image": stored, "label": [0] * COUNT}, features=features)
        image_processor, sizes = ViTImageProcessorPil(size={"height": 32, "width": 32}), {}
    else:
        features = Features({"image": Image(decode=False), "mask": Image(decode=False)})
        mask = stored_png(PILImage.new("L", (32, 32), 1))
        rows = Dataset.from_dict({"image": stored, "mask": [mask] * COUNT}, features=features)
        image_processor, sizes = SegformerImageProcessorPil(), {"image_size": 32, "crop_size": 32}
    training = find_training(task)
    args = training.data_arguments(dataset="mine", augmentation="none", horizontal_flip=flip, **sizes)
    data = Data(DatasetDict(train=rows, validation=rows), ["a", "b"], "mine")
    images = prepare_images(training, data, image_processor, args, seed=0)

    def mirrored(split: str) -> float:
        pixels = [images[split][number]["pixel_values"].mean((0, 1)) for number in range(COUNT)]
        return np.mean([line[0].item() > line[-1].item() for line in pixels])

    assert least <= mirrored("train") <= most
    assert mirrored("validation") == 0
