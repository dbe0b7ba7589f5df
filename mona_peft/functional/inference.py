"""Folded weights kept from call to call, for a Mona that is not being trained."""

from __future__ import annotations

import torch

from mona_peft.functional.folding import FoldedWeights, fold_for_inference
from mona_peft.functional.formula import Settings, Weights


class InferenceFold:
    """Keeps the folded weights of one Mona as long as its parameters stay as they are.

    A change of the parameters shows in their addresses and version counters; one through `parameter.data`, which
    PyTorch does not count, is seen when `train()` or `eval()` is called next. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._folded: FoldedWeights | None = None

    def __reduce__(self) -> tuple:
        return InferenceFold, ()

    def clear(self) -> None:
        """Forget the folded weights."""
        self._key = self._folded = None

    def get(self, weights: Weights, settings: Settings, dtype: torch.dtype | None) -> FoldedWeights:
        """Return the folded weights, folded anew if the parameters have changed.

        Args:
            weights: The parameters.
            settings: The settings.
            dtype: What matrix products and convolutions run in, where it is not the parameters' own.
        """
        key = _key(weights, dtype)
        if key is None:
            return fold_for_inference(weights, settings, dtype)
        if key != self._key:
            # Outside inference mode, so that the folded weights serve there and elsewhere.
            with torch.inference_mode(False), torch.no_grad():
                self._folded = fold_for_inference(weights, settings, dtype)
            self._key = key
        return self._folded


def _key(weights: Weights, dtype: torch.dtype | None) -> tuple | None:
    """Return what changes when the parameters do, or None if that cannot be told."""
    parameters = [*weights[:6], *weights.filter_weights, *weights.filter_biases, *weights[8:]]
    try:
        return dtype, *[(t.data_ptr(), t._version, t.dtype) for t in parameters if t is not None]
    except RuntimeError:  # parameters made in inference mode have no version counter
        return None
