"""transformers' losses of boxes and masks, divided by the right number of objects on several processes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers.loss import loss_for_object_detection
from transformers.models.mask2former import modeling_mask2former
from transformers.models.maskformer import modeling_maskformer

MODULES = (loss_for_object_detection, modeling_mask2former, modeling_maskformer)


@contextmanager
def counted_over_processes() -> Iterator[None]:
    """Lets losses be divided by the mean number of objects of a process, as in DETR and Mask2Former.

    transformers takes the mean over the processes, where the papers' code takes the sum, and then divides by the number
    of processes once more: on eight of them, boxes and masks would weigh eight times what they should, classes once.
    """
    original = [module.reduce for module in MODULES]
    try:
        for module in MODULES:
            module.reduce = partial(reduce, reduction="sum")
        yield
    finally:
        for module, function in zip(MODULES, original, strict=True):
            module.reduce = function


COUNTED_ALONE = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")
"""Types of models whose loss transformers divides by the number of objects in the batch of each process alone."""


def share_of_process(model_type: str, labels: Sequence[Mapping[str, torch.Tensor]]) -> float:
    """Returns by what to multiply the loss of a process, so that the mean over processes is that of the whole batch.

    In RT-DETR's own code a loss is divided by the mean number of objects of a process, as in DETR.

    Args:
        model_type: Of the model.
        labels: Of this process's batch, with `class_labels` of shape (N,).
    """
    if model_type not in COUNTED_ALONE or PartialState().num_processes == 1:
        return 1.0
    count = torch.tensor(float(sum(len(label["class_labels"]) for label in labels)), device=PartialState().device)
    mean = reduce(count, reduction="mean")
    return (count.clamp(min=1) / mean.clamp(min=1)).item()
