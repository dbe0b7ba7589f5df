"""Residual adapters as a PEFT tuner: the configuration, layer and model that every method on `residual.py` shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _ExcludedModule
from torch import nn

from mona_peft.adapter_files import check_adapter_state, check_weight_file
from mona_peft.blocks import Grid, GridArguments, anatomy_of, check_mlp_branch, width_of
from mona_peft.checkpointing import support_reentrant_checkpointing, withdraw_checkpointing_support
from mona_peft.class_swap import restore_class, swap_class
from mona_peft.frozen_norm import freeze_batch_norms, unfreeze_batch_norms
from mona_peft.heads import resolve_modules_to_save
from mona_peft.peft_compat import accept_keyword_calls
from mona_peft.residual import SITES, AdaptedBlock
from mona_peft.selection import TASK_HEAD, BlockSelection, backbone_of, select_blocks

INIT_WEIGHTS = (True, False, "paper")


@dataclass
class ResidualAdapterConfig(PeftConfig):
    """Fields that all residual adapters share; see `MonaConfig` for what they mean."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Blocks to adapt: names or endings of names, or a regular expression. None takes all."},
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Blocks to leave out: names or endings of names, or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Ordinals of the blocks to adapt among all blocks of the model, from 0."}
    )
    modules_to_save: list[str] | str | None = field(
        default=None,
        metadata={"help": "Modules trained and saved besides the adapters; 'task-head' is all outside the backbone."},
    )
    sites: tuple[str, ...] = field(
        default=SITES, metadata={"help": "After which residual an adapter stands: 'attention', 'mlp' or both."}
    )
    init_weights: bool | Literal["paper"] = field(
        default=True,
        metadata={"help": "True: starts equal to the base. 'paper': the authors' initialisation. False: for tests."},
    )

    recompute_mlp: bool = field(
        default=False, metadata={"help": "Recompute the MLP branches in the backward pass: less memory, more time."}
    )

    method = ""
    """Name of the method, lower case."""

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        self.peft_type = PeftType(self.method.upper())
        if self.target_modules == "all-linear":
            raise ValueError(
                "target_modules='all-linear' names linear layers, but these adapters go into whole blocks. Leave "
                "target_modules out to adapt every block."
            )
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                # A sorted list, not a set as in other tuners: the saved file is then the same every time.
                setattr(self, name, sorted(value))
        if self.target_modules == []:
            raise ValueError("target_modules=[] adapts nothing. Leave it out to adapt every block, or name some.")
        if isinstance(self.modules_to_save, str) and self.modules_to_save != TASK_HEAD:
            raise ValueError(
                f"modules_to_save={self.modules_to_save!r}: give a list of names, or {TASK_HEAD!r} for all that stands "
                "outside the backbone."
            )
        self.sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        if not self.sites or not set(self.sites) <= set(SITES):
            raise ValueError(f"sites={self.sites!r}: choose one or both of {SITES}.")
        self._check_choice("init_weights", INIT_WEIGHTS)
        self._check_choice("recompute_mlp", (True, False))

    def _check_choice(self, name: str, allowed: tuple) -> None:
        value = getattr(self, name)
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in allowed):
            raise ValueError(f"{name}={value!r}: choose one of {allowed}.")

    def _check_integer(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"{name}={value!r}: give a whole number of at least {minimum}.")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> PeftConfig:
        """Load the configuration of a saved adapter, as `PeftConfig.from_pretrained` does.

        Raises:
            ValueError: If the adapter is in a local folder and its weights are missing, damaged or pickled: loading
                then fails before a model is touched.
        """
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        check_weight_file(pretrained_model_name_or_path, subfolder, config)
        return config


class ResidualAdapterLayer(nn.Module, BaseTunerLayer):
    """The adapters of one block, by site and adapter name.

    It is a child of the block and holds all adapter state of it, so that the block itself is no tuner layer: PEFT takes
    everything on a tuner layer for adapter weights.

    Args:
        block: The block, known to `mona_peft.blocks`.

    Attributes:
        dim: Width C of the block.
        anatomy: The block's anatomy.
        grid_arguments: Reads the grid from the block's arguments.
    """

    other_param_names = ()

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.dim = width_of(block)
        self.anatomy = anatomy_of(block)
        self.grid_arguments = GridArguments.of(block)
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.recompute_mlp: dict[str, bool] = {}
        self.train(block.training)

    def make_adapter(self, config: ResidualAdapterConfig) -> nn.Module:
        """Build one adapter of the block's width, initialised as `config` says; each method has its own."""
        raise NotImplementedError

    def update_layer(self, adapter_name: str, config: ResidualAdapterConfig, block: nn.Module) -> None:
        """Add the adapters called `adapter_name` at the sites that `config` names, on the device of `block`."""
        self.recompute_mlp[adapter_name] = config.recompute_mlp
        device, dtype = _device_and_dtype(block)
        for site, adapters in self._adapters_by_site().items():
            if site in config.sites:
                adapter = self.make_adapter(config).train(block.training)
                if next(adapter.parameters()).device.type != "meta":
                    adapter = adapter.to(device, dtype)
                adapters[adapter_name] = adapter

    def _adapters_by_site(self) -> dict[str, nn.ModuleDict]:
        return {site: getattr(self, name) for site, name in zip(SITES, self.adapter_layer_names, strict=True)}

    @property
    def is_active(self) -> bool:
        """Whether any adapter of this block takes part in the forward pass."""
        return not self.disable_adapters and any(
            name in adapters for name in self.active_adapters for adapters in self._adapters_by_site().values()
        )

    @property
    def recomputes_mlp(self) -> bool:
        """Whether an active adapter asks for the MLP branch to be recomputed in the backward pass."""
        return any(self.recompute_mlp.get(name, False) for name in self.active_adapters)

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid, site: str, in_place: bool = False
    ) -> torch.Tensor | None:
        """Compute the sum of what the active adapters of a site add, or add it in place where that saves memory.

        Args:
            hidden_states: Tokens of shape (B, N, C).
            grid: (H, W).
            site: One of `SITES`.
            in_place: Whether the sum may be added to `hidden_states` in place.

        Returns:
            Tensor of the shape and dtype of `hidden_states`, or None if nothing is left to be added: no adapter is
            active at the site, or what it adds is in `hidden_states` already.
        """
        adapters_at_site = self._adapters_by_site()[site]
        adapters = [adapters_at_site[name] for name in self.active_adapters if name in adapters_at_site]
        if in_place and len(adapters) == 1 and adapters[0].adds_in_place:
            adapters[0].add_(hidden_states, grid)
            return None
        delta = None
        for adapter in adapters:
            inputs = self._cast_input_dtype(hidden_states, next(adapter.parameters()).dtype)
            output = adapter(inputs, grid).to(hidden_states.dtype)
            delta = output if delta is None else delta + output
        return delta

    def get_base_layer(self) -> nn.Module:
        """Return the layer itself: it stands beside what it adapts and wraps nothing."""
        return self

    @property
    def weight(self) -> None:
        """No weight is adapted, so there is none to show."""
        return None

    @property
    def bias(self) -> None:
        """No bias is adapted, so there is none to show."""
        return None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: see `ResidualAdapterModel.merge_and_unload`."""
        raise NotImplementedError(MERGE_MESSAGE)

    def unmerge(self) -> None:
        """Refuse: nothing can have been merged."""
        raise NotImplementedError(MERGE_MESSAGE)


MERGE_MESSAGE = (
    "These adapters are not linear (a GELU stands between their projections), so they cannot be merged into the "
    "backbone's weights. Save them with save_pretrained() and load them onto the backbone, or call unload() to get the "
    "backbone back without them."
)


def _device_and_dtype(block: nn.Module) -> tuple[torch.device, torch.dtype]:
    norm_weight = getattr(block, anatomy_of(block).norm).weight
    return norm_weight.device, norm_weight.dtype


def _check_before_load(
    tuner: ResidualAdapterModel, state_dict: dict[str, torch.Tensor], prefix: str, *load_arguments: Any
) -> None:
    try:
        check_adapter_state(tuner, state_dict, prefix)
    except ValueError:
        if all(config.inference_mode for config in tuner.peft_config.values()):
            # Attached only to be loaded, and no training is lost: give the base model back as it was.
            tuner.unload()
        raise


class ResidualAdapterModel(BaseTuner):
    """Puts adapters after the residuals of every targeted block; see `residual.py` for how.

    Each method sets `prefix`, `tuner_layer_cls` and `block_mixin`.
    """

    block_mixin: type[AdaptedBlock]
    # PEFT maps model types to target modules here; blocks are found by their class instead (`blocks.py`).
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.register_load_state_dict_pre_hook(_check_before_load)

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
        if config.recompute_mlp:
            for name in self._selection.chosen:
                check_mlp_branch(model.get_submodule(name))
        config.modules_to_save = resolve_modules_to_save(model, config)
        if state_dict is not None:
            # PEFT takes what stands before the prefix for the adapted module; here that is the layer in the block.
            layer_name = self.block_mixin.adapter_layer_name
            state_dict = {
                key.replace(f".{layer_name}.{self.prefix}", f".{self.prefix}"): value
                for key, value in state_dict.items()
            }
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        accept_keyword_calls(model)
        freeze_batch_norms(model)
        support_reentrant_checkpointing(model.get_submodule(backbone_of(model)))

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        # target_modules=None stays None, also in the saved file: names of blocks differ between transformers versions.
        return peft_config

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
        layer_name = self.block_mixin.adapter_layer_name
        if not isinstance(target, self.block_mixin):
            layer = self.tuner_layer_cls(target)
            swap_class(target, self.block_mixin)
            target.add_module(layer_name, layer)
        layer = getattr(target, layer_name)
        layer.update_layer(adapter_name, peft_config, target)
        if adapter_name not in self.active_adapters:
            # An additional adapter is not trainable until it is made active.
            layer.set_requires_grad(adapter_name, False)

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        # Blocks hold no embeddings, and several detectors raise when they are asked for theirs.
        return []

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        if merge:
            raise NotImplementedError(MERGE_MESSAGE)
        for module in list(self.model.modules()):
            if isinstance(module, self.block_mixin):
                delattr(module, self.block_mixin.adapter_layer_name)
                restore_class(module, self.block_mixin)
        unfreeze_batch_norms(self.model)
        withdraw_checkpointing_support(self.model)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own copies `weight` and `bias` over, which heads of several layers lack; only heads are replaced here.
        setattr(parent, child_name, new_module)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refuse: these adapters are not linear.

        Raises:
            NotImplementedError: Always; it says what to call instead.
        """
        raise NotImplementedError(MERGE_MESSAGE)
