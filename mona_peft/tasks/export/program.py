"""A trained model as a graph: one tensor in, tensors with names out."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

OUTPUTS = ("logits", "pred_boxes", "class_queries_logits", "masks_queries_logits")
"""What of a model's output is exported, where it has it: all that the image processors' post-processing takes."""

BRANCHED_ON = ("attn_mask_probs",)
"""Names of buffers that models' code compares with numbers to decide what is computed: EoMT's, of its last blocks."""

INPUT = "pixel_values"
MAX_BATCH = 1024


class TensorsOut(nn.Module):
    """A model whose output is a tuple of float32 tensors, whatever it is computed in.

    Args:
        model: In evaluation mode.
        names: Of those of its outputs that are wanted.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs for images, (B, 3, H, W), float32."""
        outputs = self.model(pixel_values=pixel_values.to(next(self.model.parameters()).dtype))
        return tuple(outputs[name].float() for name in self.names)


def tensors_out(model: nn.Module, example: torch.Tensor) -> TensorsOut:
    """Returns a model as one that can be exported.

    Args:
        model: In evaluation mode.
        example: Images, (B, 3, H, W).
    """
    with torch.no_grad():
        outputs = model(pixel_values=example.to(next(model.parameters()).dtype))
    names = tuple(name for name in OUTPUTS if isinstance(outputs.get(name), torch.Tensor))
    return TensorsOut(model, names).eval()


def export_program(model: TensorsOut, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Returns the graph of a model for any number of images.

    Args:
        model: To export.
        example: Images, (B, 3, H, W), B at least 2: graphs of a single image are for single images.

    Raises:
        ValueError: torch.export can't follow the model; says why.
    """
    shapes = {INPUT: {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}}
    # Following Python itself is faster, and takes a number of images for a constant that is told by `len(tensor)`, as
    # in RT-DETR. Following bytecode (strict) does not, but knows less of Python.
    reasons = []
    for strict in (False, True):
        try:
            with quiet(), torch.no_grad(), known_numbers(model):
                return torch.export.export(model, (example,), dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # what a model's code raises when it is traced, and torch's own
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    base = getattr(model.model, "base_model", model.model)
    raise ValueError(
        f"{type(getattr(base, 'model', base)).__name__} can't be exported: torch.export can't follow its code "
        f"({reasons[0]}; in strict mode {reasons[1]})."
    )


@contextlib.contextmanager
def known_numbers(model: nn.Module) -> Iterator[None]:
    """Makes Python's numbers of the buffers `BRANCHED_ON`, of which a graph would not know which way to go."""
    found = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in BRANCHED_ON
    ]
    try:
        for module, name, buffer in found:
            delattr(module, name)
            setattr(module, name, buffer.tolist())
        yield
    finally:
        for module, name, buffer in found:
            delattr(module, name)
            module.register_buffer(name, buffer)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what the exporters say of themselves and of transformers' code."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir", "onnxruntime")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
