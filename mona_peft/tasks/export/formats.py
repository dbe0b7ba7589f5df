"""The formats: how a graph is written, and how the file is run to check it."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path

import torch

from mona_peft.tasks.export.program import INPUT, TensorsOut, export_program, quiet
from mona_peft.tasks.export.verification import Run

INSTALL = 'pip install "mona-peft[export]"'
BLOCK = 32
"""Weights that share a scale."""


class Format(ABC):
    """A format of files.

    Attributes:
        file: Name of the file.
        precisions: What weights can be stored in.
    """

    file: str
    precisions: tuple[str, ...]

    def check(self) -> None:
        """Checks that what it needs is installed; this much always is.

        Raises:
            ValueError: It is not; says how to install it.
        """
        return

    @abstractmethod
    def write(self, model: TensorsOut, example: torch.Tensor, precision: str, folder: Path) -> str | None:
        """Writes a model.

        Args:
            model: In float32, on the CPU.
            example: Images, (B, 3, H, W), B at least 2.
            precision: One of `precisions`.
            folder: Gets the file.

        Returns:
            What is to be said of it besides.

        Raises:
            ValueError: It can't be exported; says why.
        """

    @abstractmethod
    def load(self, folder: Path) -> Run:
        """Returns what runs the file on the CPU."""


def in_precision(model: TensorsOut, precision: str) -> TensorsOut:
    """Returns the model, or for `fp16` a copy whose weights are that."""
    return copy.deepcopy(model).half() if precision == "fp16" else model


class Onnx(Format):
    """ONNX, by torch's exporter of today, run by onnxruntime."""

    file = "model.onnx"
    precisions = ("fp32", "fp16", "int8")

    def check(self) -> None:
        """Checks that onnx, onnxscript and onnxruntime are there."""
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ValueError(f"--format onnx needs {error.name}. Install it with: {INSTALL}") from error

    def write(self, model: TensorsOut, example: torch.Tensor, precision: str, folder: Path) -> str | None:
        """Writes `model.onnx`; weights of more than two gigabytes, more than fit, into `model.onnx.data` beside it."""
        program = export_program(in_precision(model, precision), example)
        try:
            with quiet():
                onnx_program = torch.onnx.export(
                    program,
                    input_names=[INPUT],
                    output_names=list(model.names),
                    verbose=False,
                )
        except Exception as error:  # onnxscript's, torch.onnx's, and of what an operator lacks
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"The model can't be written as ONNX: {type(error).__name__}: {reason[0] if reason else ''} "
                "(--format torch may work.)"
            ) from error
        large = sum(parameter.nbytes for parameter in program.state_dict.values()) > 1.9 * 2**30
        onnx_program.save(folder / self.file, external_data=large)
        return self._quantize(folder) if precision == "int8" else None

    def _quantize(self, folder: Path) -> str:
        """Stores the weights of matrix products as eight-bit numbers; they are turned back when they are used."""
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        path = folder / self.file
        before = onnx.load(path)
        quantizer = MatMulNBitsQuantizer(before, bits=8, block_size=BLOCK, is_symmetric=True)
        with quiet():
            quantizer.process()
        quantized = quantizer.model.model
        count = sum(node.op_type == "MatMulNBits" for node in quantized.graph.node)
        if not count:
            raise ValueError("--precision int8: the model has no matrix product whose weights could be quantized.")
        for old in folder.iterdir():
            old.unlink()
        onnx.save(quantized, path)
        return (
            f"The weights of {count} matrix products have eight bits, by onnxruntime's own operator MatMulNBits; "
            "convolutions and norms stay in fp32."
        )

    def load(self, folder: Path) -> Run:
        """Returns what runs the file in onnxruntime on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / self.file, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {INPUT: images.numpy()})


class TorchProgram(Format):
    """A program of torch.export, which `torch.export.load` reads."""

    file = "model.pt2"
    precisions = ("fp32", "fp16")

    def write(self, model: TensorsOut, example: torch.Tensor, precision: str, folder: Path) -> None:
        """Writes `model.pt2`."""
        torch.export.save(export_program(in_precision(model, precision), example), folder / self.file)

    def load(self, folder: Path) -> Run:
        """Returns what runs the file in PyTorch on the CPU."""
        program = torch.export.load(folder / self.file).module()

        @torch.no_grad()
        def run(images: torch.Tensor) -> list:
            return [output.numpy() for output in program(images)]

        return run


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch": TorchProgram()}
"""By their names on the command line."""
