"""Lets a torchvision without its compiled operators be imported, by declaring their schemas; for tests alone.

The Python half of torchvision registers gradients and shapes of operators that its compiled half defines. Where that
half does not fit the installed torch, the import fails, and with it that of timm and of much of transformers. Of these
operators only non-maximum suppression is called here, so it alone is also implemented, naively.

`python -m tests.torchvision_schemas MODULE ARGUMENTS` runs a module so.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys

import torch

_ROI = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_GRAD = "Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SIZE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, "
    "SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask"
)
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"ps_roi_align({_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"ps_roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"deform_conv2d(Tensor input, {_DEFORM}) -> Tensor",
    f"_roi_align_backward({_GRAD}, {_SIZE}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_pool_backward({_GRAD}, Tensor argmax, {_SIZE}) -> Tensor",
    f"_ps_roi_align_backward({_GRAD}, Tensor mapping, {_SIZE}, int sampling_ratio) -> Tensor",
    f"_ps_roi_pool_backward({_GRAD}, Tensor mapping, {_SIZE}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, Tensor input, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_LIBRARY = None


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keep the surest box, leave out those that overlap it by more than the threshold, and so on."""
    areas = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    left, kept = scores.argsort(descending=True).tolist(), []
    while left:
        best, *others = left
        kept.append(best)
        sides = torch.minimum(dets[best, 2:], dets[others, 2:]) - torch.maximum(dets[best, :2], dets[others, :2])
        common = sides.clamp(min=0).prod(1)
        overlaps = common / (areas[best] + areas[others] - common)
        left = [other for other, overlap in zip(others, overlaps.tolist(), strict=True) if overlap <= iou_threshold]
    return torch.tensor(kept, dtype=torch.long)


def declare() -> None:
    """Declare the operators that are missing; does nothing where torchvision brings its own, or is not installed."""
    global _LIBRARY
    if _LIBRARY is not None or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError:  # "operator torchvision::nms does not exist"
        pass
    else:
        del torchvision
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        _LIBRARY.define(schema)
    _LIBRARY.impl("nms", nms, "CPU")
    import torchvision

    torchvision.extension._has_ops = lambda: True  # it asks before each call


if __name__ == "__main__":
    declare()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
