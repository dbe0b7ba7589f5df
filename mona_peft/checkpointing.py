"""Gradient checkpointing of a frozen backbone.

Reentrant checkpointing gives gradients only to what follows an input that requires them, and nothing before the first
adapter does. transformers' remedy, `enable_input_require_grads`, calls `requires_grad_()` on what the patch embeddings
return, which is a tuple in Swin and its relatives, so it fails for every PEFT method. The hook here serves both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mona_peft.selection import input_embeddings


class _Embeddings(tuple):
    """Patch embeddings and their grid, with the `requires_grad_` that transformers' hook calls."""

    def requires_grad_(self, requires_grad: bool = True) -> _Embeddings:
        _require_grad(self, requires_grad)
        return self


def _require_grad(outputs: torch.Tensor | tuple, requires_grad: bool = True) -> None:
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            output.requires_grad_(requires_grad)


class _EmbeddingHook:
    """Forward hook of the patch embeddings of one backbone."""

    def __init__(self, checkpointing_layers: list[nn.Module]) -> None:
        self.checkpointing_layers = checkpointing_layers

    def __call__(self, embeddings: nn.Module, args: tuple, outputs: Any) -> Any:
        if torch.is_grad_enabled() and any(_checkpoints_reentrantly(layer) for layer in self.checkpointing_layers):
            _require_grad(outputs)
        # Another hook besides this one may be transformers', which wants `requires_grad_`.
        needs_method = type(outputs) is tuple and len(embeddings._forward_hooks) > 1
        return _Embeddings(outputs) if needs_method else None


def _checkpoints_reentrantly(layer: nn.Module) -> bool:
    if not (layer.gradient_checkpointing and layer.training):
        return False
    return getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", True)


def support_reentrant_checkpointing(backbone: nn.Module) -> None:
    """Make the patch embeddings of `backbone` ready for gradient checkpointing of both kinds."""
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    for embeddings in _input_embeddings(backbone):
        if not any(isinstance(hook, _EmbeddingHook) for hook in embeddings._forward_hooks.values()):
            embeddings.register_forward_hook(_EmbeddingHook(layers), prepend=True)


def withdraw_checkpointing_support(backbone: nn.Module) -> None:
    """Undo `support_reentrant_checkpointing`."""
    for embeddings in _input_embeddings(backbone):
        for key, hook in list(embeddings._forward_hooks.items()):
            if isinstance(hook, _EmbeddingHook):
                del embeddings._forward_hooks[key]


def _input_embeddings(backbone: nn.Module) -> list[nn.Module]:
    models = (module for module in backbone.modules() if isinstance(module, PreTrainedModel))
    found = {id(embeddings): embeddings for model in models if (embeddings := input_embeddings(model)) is not None}
    return list(found.values())
