"""The tuner that puts residual adapters into the blocks of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import _ExcludedModule
from torch import nn

from mona_peft.blocks import anatomy_of, check_branch, forget_patch_grids, token_map_of, width_of
from mona_peft.config import ResidualAdapterConfig
from mona_peft.host.block import AdaptedBlock, ResidualAdapter
from mona_peft.host.class_swap import restore_class, swap_class
from mona_peft.host.per_sample import BASE, adapters_per_sample
from mona_peft.integration.checkpointing import support_reentrant_checkpointing, withdraw_checkpointing_support
from mona_peft.integration.fit import SAVED_PREFIX, check_loaded_state
from mona_peft.integration.frozen_norms import freeze_batch_norms, unfreeze_batch_norms
from mona_peft.integration.heads import trained_heads
from mona_peft.integration.layer import MERGE_MESSAGE, ResidualAdapterLayer
from mona_peft.integration.selection import BlockSelection, backbone_of, select_blocks
from mona_peft.integration.tuner import MethodModel


def _check_before_load(
    tuner: ResidualAdapterModel, state_dict: dict[str, torch.Tensor], prefix: str, *load_arguments: Any
) -> None:
    check_loaded_state(tuner, state_dict, prefix)


class ResidualAdapterModel(MethodModel):
    """Puts adapters into every targeted block; see `host/placement.py` for where, and `host/block.py` for how.

    Each method sets `prefix`, `tuner_layer_cls` and `block_mixin`.
    """

    block_mixin: type[AdaptedBlock]

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.register_load_state_dict_pre_hook(_check_before_load)

    @property
    def weight_names(self) -> re.Pattern[str]:
        """What the names of adapter weights match; see `MethodModel`."""
        layer = re.escape(f"{self.block_mixin.child_name}.{self.prefix}")
        return re.compile(rf"(?:^|.*\.){layer}[^.]+\.(?:(?P<adapter>[^.]+)\.)?[^.]+$")

    @classmethod
    def block_pattern(cls) -> re.Pattern[str]:
        """Return what matches the names of a block's weights in a file; see `MethodModel`."""
        layer = re.escape(f"{cls.block_mixin.child_name}.{cls.prefix}")
        return re.compile(rf"(?P<block>.*)\.(?P<rest>{layer}[^.]+\.[^.]+)")

    @classmethod
    def adapter_tensors(cls, model: nn.Module, config: ResidualAdapterConfig) -> dict[str, torch.Tensor]:
        """Return tensors of the shapes of an adapter's weights, by their names in its file; see `MethodModel`."""
        chosen = select_blocks(model, config).chosen
        adapters = cls._meta_adapters([model.get_submodule(name) for name in sorted(chosen)], config)
        tensors = {}
        for name, block in model.named_modules():
            if name not in chosen:
                continue
            for site in config.sites_in(anatomy_of(block)):
                layer = ".".join([name, cls.block_mixin.child_name, cls.tuner_layer_cls.child_of(site)])
                weights = adapters[width_of(block)].state_dict()
                tensors |= {f"{layer}.{weight}".lstrip("."): tensor for weight, tensor in weights.items()}
        return tensors

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Attach the adapter `adapter_name`; every check comes before the first change.

        Args and behaviour are those of `BaseTuner.inject_adapter`.

        Raises:
            ValueError: If the configuration does not fit the model.
        """
        config = self.peft_config[adapter_name]
        self._selection: BlockSelection = select_blocks(model, config)
        self._meta_adapters([model.get_submodule(name) for name in sorted(self._selection.chosen)], config)
        if state_dict is not None:
            # PEFT takes what stands before the prefix for the adapted module; here that is the layer in the block.
            layer_name = self.block_mixin.child_name
            # And the keys of a saved adapter begin with the modules of a PeftModel.
            state_dict = {
                key.removeprefix(SAVED_PREFIX).replace(f".{layer_name}.{self.prefix}", f".{self.prefix}"): value
                for key, value in state_dict.items()
            }
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        heads = trained_heads(model)
        for layer in self._layers():
            layer.trained_heads = heads
        freeze_batch_norms(model)
        support_reentrant_checkpointing(model.get_submodule(backbone_of(model)))

    @classmethod
    def _meta_adapters(cls, blocks: list[nn.Module], config: ResidualAdapterConfig) -> dict[int, ResidualAdapter]:
        """Return an adapter without memory for each width among blocks.

        Raises:
            ValueError: If blocks have adapters of another method, or settings do not go with them.
        """
        for block in blocks:
            if isinstance(block, AdaptedBlock) and not isinstance(block, cls.block_mixin):
                raise ValueError(
                    "The blocks have adapters of another method already, and a block runs with those of one. Take them "
                    f"off with unload() before {config.title} is attached."
                )
            for site in config.recomputed:
                check_branch(block, site)
        with torch.device("meta"):
            return {width: config.make_adapter(width) for width in {width_of(block) for block in blocks}}

    def _layers(self) -> list[ResidualAdapterLayer]:
        return [module for module in self.model.modules() if isinstance(module, self.tuner_layer_cls)]

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> bool | _ExcludedModule:
        return _ExcludedModule() if key in self._selection.excluded else key in self._selection.chosen

    def _create_and_replace(
        self,
        peft_config: ResidualAdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        layer_name = self.block_mixin.child_name
        if not isinstance(target, self.block_mixin):
            layer = self.tuner_layer_cls(target, token_map_of(self.model, current_key))
            swap_class(target, self.block_mixin)
            target.add_module(layer_name, layer)
        layer = getattr(target, layer_name)
        layer.update_layer(adapter_name, peft_config, target)
        if adapter_name not in self.active_adapters:
            # An additional adapter is not trainable until it is made active.
            layer.set_requires_grad(adapter_name, False)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # PEFT looks for tuner layers, whose names accelerate's activation checkpointing changes; the keys stay.
        return {
            key: tensor
            for key, tensor in state_dict.items()
            if f".{cls.block_mixin.child_name}.{cls.prefix}" in f".{key}"
        }

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        if merge:
            raise NotImplementedError(MERGE_MESSAGE)
        for module in list(self.model.modules()):
            if isinstance(module, self.block_mixin):
                delattr(module, self.block_mixin.child_name)
                restore_class(module, self.block_mixin)
        unfreeze_batch_norms(self.model)
        withdraw_checkpointing_support(self.model)
        forget_patch_grids(self.model)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own copies `weight` and `bias` over, which heads of several layers lack; only heads are replaced here.
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Iterator[None]:
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode. Call eval() first.")
        unknown = sorted(set(adapter_names) - {BASE} - self.peft_config.keys())
        if unknown:
            raise ValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. The model has "
                f"{', '.join(self.peft_config)}; {BASE!r} stands for the model without adapters."
            )
        blocks = [module for module in self.model.modules() if isinstance(module, self.block_mixin)]
        with adapters_per_sample([*blocks, *trained_heads(self.model)], adapter_names):
            yield

    def set_adapters(self, adapter_names: Sequence[str], adapter_weights: Sequence[float] | None = None) -> None:
        """Make several adapters active at once: the model runs with the weighted sum of their outputs.

        The weights hold until others than these adapters are active, or they are weighed anew, and are not saved.

        Args:
            adapter_names: Names of adapters; at most one of them may have a head in `modules_to_save`.
            adapter_weights: One factor for the output of each; without them all are 1.

        Raises:
            ValueError: If a name is unknown, or there is not one weight for each.

        Example:
            >>> model.set_adapters(["flowers", "pets"], [0.7, 0.3])
        """
        adapter_names = list(adapter_names)
        weights = [1.0] * len(adapter_names) if adapter_weights is None else [float(w) for w in adapter_weights]
        unknown = [name for name in adapter_names if name not in self.peft_config]
        if unknown or not adapter_names:
            raise ValueError(f"set_adapters({adapter_names!r}): choose from the adapters {list(self.peft_config)}.")
        if len(weights) != len(adapter_names):
            raise ValueError(f"set_adapters got {len(adapter_names)} adapters, but {len(weights)} weights: {weights}.")
        self.set_adapter(adapter_names)
        for layer in self._layers():
            layer.adapter_weights = {
                name: weight for name, weight in zip(adapter_names, weights, strict=True) if weight != 1
            }

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, and say what to call instead.

        Raises:
            NotImplementedError: Always: the sum of adapters that are not linear is not one adapter's weights.
        """
        raise NotImplementedError(
            "These adapters are not linear, so several have no weights in common that would give the sum of their "
            "outputs. Run them together instead: set_adapters(adapters, weights) weighs and adds their outputs."
        )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refuse: these adapters are not linear.

        Raises:
            NotImplementedError: Always; it says what to call instead.
        """
        raise NotImplementedError(MERGE_MESSAGE)
