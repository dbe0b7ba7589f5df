"""Where the kernels in Triton run in tests: on a GPU where there is one, else on the CPU by Triton's interpreter."""

from __future__ import annotations

import numpy as np
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mend_interpreter() -> None:
    """Let the interpreter round to bfloat16 as a GPU does; it cuts off, and multiplies the bits of matrices."""
    from triton import language as tl
    from triton.runtime import interpreter

    convert, multiply = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def rounding(data, from_type, to_type, rounding_mode):
        if (from_type, to_type) != (tl.float32, tl.bfloat16):
            return convert(data, from_type, to_type, rounding_mode)
        rounded = torch.from_numpy(np.array(data, dtype=np.float32)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16)

    def exact(builder, left, right, *rest):
        left, right = (
            builder.cast_impl(matrix, tl.float32) if matrix.dtype == tl.bfloat16 else matrix for matrix in (left, right)
        )
        return multiply(builder, left, right, *rest)

    interpreter._convert_float, interpreter.InterpreterBuilder.create_dot = rounding, exact
