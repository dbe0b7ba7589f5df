"""BitFit: the biases of the backbone are trained, and nothing else of it.

Source: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
ACL 2022, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from torch.nn.utils import parametrize

from mona_peft.config import MethodConfig
from mona_peft.integration.layer import FreeTunerLayer
from mona_peft.integration.registration import register_method
from mona_peft.integration.selection import idle_modules, in_backbone, is_saved_whole
from mona_peft.integration.tuner import MethodModel

BIAS, RELATIVE_POSITION_BIAS = "bias", "relative_position_bias_table"


@dataclass
class BitFitConfig(MethodConfig):
    """Configuration of BitFit (ACL 2022): every bias of the backbone is trained.

    Args:
        target_modules: Modules of the backbone whose biases are trained, by PEFT's rules: a list of names or their
            endings, or a regular expression for the whole name. `None` takes all of them.
        modules_to_save: Names of modules that are trained and saved besides, or `"task-head"` for all that stands
            outside the backbone.
        relative_position_bias: Train Swin's relative position bias tables too, as Mona's authors do, who take every
            parameter with "bias" in its name.

    Raises:
        ValueError: If a value is out of range; the message says what is allowed.
    """

    relative_position_bias: bool = field(
        default=True, metadata={"help": "Train relative position bias tables too, as Mona's authors do."}
    )

    method = "bitfit"
    title = "BitFit"
    adapts = "modules with biases"
    trains = "biases"

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        self._check_choice("relative_position_bias", (True, False))

    def trains_parameter(self, name: str) -> bool:
        """Whether a parameter of a module is trained; `in_proj_bias` and the like are biases too."""
        return name.endswith(BIAS) or (self.relative_position_bias and name == RELATIVE_POSITION_BIAS)


class BitFitLayer(FreeTunerLayer):
    """What was learnt for one parameter, by adapter name: `parameter = pre-trained value + shift`.

    It is a PyTorch parametrisation of the parameter, so modules, their classes and their forward stay as they are, and
    the pre-trained value stays too: switching the adapter off, or taking it off, gives it back.
    """

    adapter_layer_names = ("bitfit_shift",)

    def __init__(self) -> None:
        super().__init__()
        self.bitfit_shift = nn.ParameterDict()

    def forward(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the pre-trained parameter with the shifts of the active adapters."""
        if not self.disable_adapters:
            for name in self.active_adapters:
                if name in self.bitfit_shift:
                    parameter = parameter + self.bitfit_shift[name].to(parameter.dtype)
        return parameter


class BitFitModel(MethodModel):
    """Trains the biases of a model's backbone; see `BitFitConfig`.

    Args:
        model: Model to adapt; modules stay where they are, each trained parameter becomes a parametrised one.
        config: A `BitFitConfig`.
        adapter_name: Name of the adapter.
        low_cpu_mem_usage: Create the adapter's weights on the meta device.

    Raises:
        ValueError: If the model's backbone is not known, or has no bias.
    """

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer
    weight_names = re.compile(r".*\.bitfit_shift(?:\.(?P<adapter>[^.]+))?$")

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Attach the adapter `adapter_name`; arguments are those of `BaseTuner.inject_adapter`."""
        self._targets = self._biased_modules(model, self.peft_config[adapter_name])
        if state_dict is not None:
            # PEFT takes what stands before the prefix for the adapted module.
            state_dict = {re.sub(r"\.parametrizations\.\w+\.0\.", ".", key): value for key, value in state_dict.items()}
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)

    @classmethod
    def adapter_tensors(cls, model: nn.Module, config: BitFitConfig) -> dict[str, torch.Tensor]:
        """Return tensors of the shapes of an adapter's weights, by their names in its file; see `MethodModel`."""
        tensors = {}
        for name, parameters in cls._biased_modules(model, config).items():
            module = model.get_submodule(name)
            for parameter in parameters:
                adapted = parametrize.is_parametrized(module, parameter)
                value = module.parametrizations[parameter].original if adapted else module.get_parameter(parameter)
                tensors[f"{name}.parametrizations.{parameter}.0.bitfit_shift".lstrip(".")] = value
        return tensors

    @staticmethod
    def _biased_modules(model: nn.Module, config: BitFitConfig) -> dict[str, list[str]]:
        """Return the names of the parameters to be trained, by the name of their module."""
        inside = in_backbone(model)
        idle = tuple(f"{name}." for name in idle_modules(model))
        targets = {}
        for name, module in model.named_modules():
            is_inside = inside(name) and not f"{name}.".startswith(idle)
            if (
                not is_inside
                or is_saved_whole(name, config)
                or not (config.target_modules is None or check_target_module_exists(config, name))
            ):
                continue
            given = {name for name, parameter in module._parameters.items() if parameter is not None}
            given |= set(_shifted(module))
            if names := sorted(filter(config.trains_parameter, given)):
                targets[name] = names
            others = set(getattr(module, "parametrizations", ())) - given
            if others := sorted(filter(config.trains_parameter, others)):
                raise ValueError(
                    f"{name}.{others[0]} is parametrised (torch.nn.utils.parametrize) already, so BitFit can't add to "
                    "it. Take the parametrisation off, or leave the module out of target_modules."
                )
        if not targets:
            raise ValueError(
                f"The backbone of {type(model).__name__} has no bias in target_modules={config.target_modules!r}. Name "
                "modules that have one themselves, not in their submodules, or leave it out to train every bias."
            )
        unmatched = [
            target
            for target in (config.target_modules if isinstance(config.target_modules, list) else [])
            if not any(f".{name}".endswith(f".{target}") for name in targets)
        ]
        if unmatched:
            raise ValueError(f"target_modules: {unmatched} names no module with a bias in the backbone.")
        return targets

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> bool:
        return key in self._targets

    def _create_and_replace(
        self,
        peft_config: BitFitConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        for name in self._targets[current_key]:
            if not parametrize.is_parametrized(target, name):
                original = target.get_parameter(name)
                parametrize.register_parametrization(target, name, BitFitLayer(), unsafe=True)
                # With `low_cpu_mem_usage` a parameter that is registered here loses its value.
                target.parametrizations[name]._parameters["original"] = original
            parametrized = target.parametrizations[name]
            layer = parametrized[0]
            layer.bitfit_shift[adapter_name] = nn.Parameter(torch.zeros_like(parametrized.original))
            layer.set_adapter(self.active_adapters)

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Iterator[None]:
        if adapter_names is not None:
            raise NotImplementedError(
                "A parameter has one value for a whole batch, so BitFit can't take an adapter for each sample. Call "
                "the model once for each adapter, with set_adapter()."
            )
        yield

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refuse: there is nothing to gain, as trained biases cost nothing.

        Raises:
            NotImplementedError: Always; it says what to call instead.
        """
        raise NotImplementedError(
            "BitFit's trained biases are added when the model runs, and are never merged into one that keeps the "
            "method. merge_and_unload() puts them into the model and takes the method off."
        )

    def unmerge_adapter(self) -> None:
        """Refuse, as `merge_adapter` does."""
        self.merge_adapter()

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = True,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Give the model back with the trained biases in place (merged), or with those that it came with.

        Raises:
            ValueError: If there is no adapter of a name, or with `safe_merge` a bias would not be a number.
        """
        if merge and adapter_names is not None:
            if unknown := [name for name in adapter_names if name not in self.peft_config]:
                raise ValueError(f"adapter_names: there is no {unknown}. Adapters are {list(self.peft_config)}.")
            self.set_adapter(adapter_names)
        modules = {name: module for name, module in self.model.named_modules() if _shifted(module)}
        if merge and safe_merge:
            broken = [name for name, module in modules.items() if not _is_finite(module)]
            if broken:
                raise ValueError(
                    f"The biases of {len(broken)} modules, such as {broken[0]}, would not be numbers, and nothing was "
                    f"merged: adapter {self.active_adapters} is broken."
                )
        for module in modules.values():
            _give_back(module, merge)
        return super()._unload_and_optionally_merge(False, progressbar)


def _shifted(module: nn.Module) -> list[str]:
    """Return the names of the parameters that BitFit has parametrised; a user may have parametrised others."""
    parametrized = getattr(module, "parametrizations", None) if parametrize.is_parametrized(module) else None
    return [name for name, layers in (parametrized or {}).items() if isinstance(layers[0], BitFitLayer)]


def _is_finite(module: nn.Module) -> bool:
    return all(getattr(module, name).isfinite().all() for name in _shifted(module))


def _give_back(module: nn.Module, merge: bool) -> None:
    """Make parametrised parameters plain ones again, with their trained values or the pre-trained ones.

    PyTorch's `remove_parametrizations` edits the class that a module shares with its deep copies, which then break.
    """
    values = {
        name: getattr(module, name).detach() if merge else module.parametrizations[name].original.detach()
        for name in _shifted(module)
    }
    if len(values) == len(module.parametrizations):
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
    else:
        # A class like the present one, without the properties that compute these parameters.
        for name in values:
            del module.parametrizations[name]
        parametrized = type(module)
        kept = {name: value for name, value in vars(parametrized).items() if name not in values}
        module.__class__ = type(parametrized.__name__, parametrized.__bases__, kept)
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


register_method(BitFitConfig, BitFitModel)
