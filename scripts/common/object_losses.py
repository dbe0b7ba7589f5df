"""transformers' losses of boxes and masks, divided by the right number of objects on several processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

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
