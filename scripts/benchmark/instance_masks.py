"""Measures what it costs to turn the outputs of an instance segmenter into detections, an image, beside transformers.

    python -m scripts.benchmark.instance_masks
    python -m scripts.benchmark.instance_masks --device cuda --queries 200

The outputs are random blobs, a quarter as large as what the model would have seen. Times are CPU seconds of this
process, one thread; on a GPU they are what it does not take off the CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as mask_api
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

from mona_peft.tasks.objects.detections import find_masks

PROCESSORS = {"Mask2Former": Mask2FormerImageProcessorPil, "MaskFormer": MaskFormerImageProcessorPil}


def outputs_of(queries: int, classes: int, height: int, width: int, device: str) -> dict[str, torch.Tensor]:
    """Returns the outputs of a model for one image of `height` x `width` pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, queries, 12, 16, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size=(height // 4, width // 4), mode="bicubic")
    scores = 3 * torch.randn(1, queries, classes + 1, generator=generator)
    return {"masks_queries_logits": masks.to(device), "class_queries_logits": scores.to(device)}


def by_transformers(
    image_processor: Any, outputs: dict[str, torch.Tensor], input_size: tuple[int, int], sizes: list[tuple[int, int]]
) -> list[list[dict[str, Any]]]:
    """Finds the same by the image processor's own post-processing, on the CPU, the masks of whole images at once."""
    masks = torch.nn.functional.interpolate(outputs["masks_queries_logits"].cpu(), size=input_size, mode="bilinear")
    found = image_processor.post_process_instance_segmentation(
        SimpleNamespace(masks_queries_logits=masks, class_queries_logits=outputs["class_queries_logits"].cpu()),
        threshold=0.0,
        target_sizes=sizes,
        return_binary_maps=True,
    )
    return [
        mask_api.encode(np.asfortranarray(image["segmentation"].byte().numpy().transpose(1, 2, 0))) for image in found
    ]


def seconds(function: Callable[[], object], rounds: int) -> float:
    """Returns the least CPU time of some calls, after one that does not count."""
    function()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line an image processor and size of image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    input_size = (800, 1088)
    outputs = outputs_of(args.queries, args.classes, *input_size, args.device)
    for name, processor in PROCESSORS.items():
        for size in ((480, 640), input_size):
            given = (processor(), outputs, input_size, [size])
            before, now = (seconds(partial(do, *given), args.rounds) for do in (by_transformers, find_masks))
            print(
                f"{name}, seen at {input_size[1]} x {input_size[0]}, image of {size[1]} x {size[0]}: {now:.2f} CPU "
                f"seconds an image, by transformers' post-processing {before:.2f} ({before / now:.1f} times as long)"
            )


if __name__ == "__main__":
    main()
