"""Gradient checkpointing of a frozen backbone.

Reentrant checkpointing gives gradients only to what follows an input that requires them, and nothing before the first
adapter does. transformers' remedy, `enable_input_require_grads`, calls `requires_grad_()` on what the patch embeddings
return, which is a tuple in Swin and its relatives, so it fails for every PEFT method. The hook here serves both. Models
that embed patches anew in each stage tell of no embeddings; there the images are what requires gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mona_peft.integration.selection import input_embeddings


def enable_checkpointing(model: nn.Module, kind: dict[str, Any]) -> None:
    """Switch gradient checkpointing on; from transformers 5.23 on the method has another name.

    Args:
        model: A model of transformers, or a PEFT model around one.
        kind: Arguments of `torch.utils.checkpoint.checkpoint`.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(kind)


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


class _ImageHook:
    """Forward pre-hook of a backbone that tells of no patch embeddings."""

    def __init__(self, checkpointing_layers: list[nn.Module]) -> None:
        self.checkpointing_layers = checkpointing_layers

    def __call__(self, backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if not torch.is_grad_enabled() or not any(map(_checkpoints_reentrantly, self.checkpointing_layers)):
            return None
        return tuple(map(_requiring_grad, args)), {key: _requiring_grad(value) for key, value in kwargs.items()}


def _requiring_grad(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.requires_grad:
        return value
    return value.detach().requires_grad_()  # an alias: the caller's own tensor stays as it is


def _checkpoints_reentrantly(layer: nn.Module) -> bool:
    if not (layer.gradient_checkpointing and layer.training):
        return False
    return getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", True)


def support_reentrant_checkpointing(backbone: nn.Module) -> None:
    """Make the patch embeddings of `backbone`, or its images, ready for gradient checkpointing of both kinds."""
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    embeddings = _input_embeddings(backbone)
    for module in embeddings:
        if not _has_hook(module):
            module.register_forward_hook(_EmbeddingHook(layers), prepend=True)
    if layers and not embeddings and not _has_hook(backbone):
        backbone.register_forward_pre_hook(_ImageHook(layers), with_kwargs=True)


def withdraw_checkpointing_support(model: nn.Module) -> None:
    """Undo `support_reentrant_checkpointing` for a backbone anywhere in `model`."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (_EmbeddingHook, _ImageHook)):
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)


def _has_hook(module: nn.Module) -> bool:
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(isinstance(hook, (_EmbeddingHook, _ImageHook)) for hook in hooks)


def _input_embeddings(backbone: nn.Module) -> list[nn.Module]:
    models = (module for module in backbone.modules() if isinstance(module, PreTrainedModel))
    found = {id(embeddings): embeddings for model in models if (embeddings := input_embeddings(model)) is not None}
    return list(found.values())
