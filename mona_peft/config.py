"""The configurations that all methods, and all residual adapters, share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from peft import PeftConfig, PeftType

from mona_peft.blocks import SITES, BlockAnatomy
from mona_peft.files.state import check_weights, current_config
from mona_peft.files.weights import WEIGHTS_NAME
from mona_peft.host.block import ResidualAdapter
from mona_peft.host.placement import AfterResidual, Placement

TASK_HEAD = "task-head"
"""Value of `modules_to_save` that stands for all that stands outside the backbone."""

INIT_WEIGHTS = (True, False, "paper")


@dataclass
class MethodConfig(PeftConfig):
    """Configuration of a method of this package: what it is called in PEFT and in prose, and fields that all share.

    Args:
        target_modules: Names or endings of names of the modules to adapt, or a regular expression that the whole name
            matches. None takes all that the method adapts.
        modules_to_save: Names of modules that are trained and saved besides the adapters; `"task-head"` is all outside
            the backbone.

    Raises:
        ValueError: A field has a value that it can't have.
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Modules to adapt: names or endings of names, or a regular expression. None takes all."},
    )
    modules_to_save: list[str] | str | None = field(
        default=None,
        metadata={"help": "Modules trained and saved besides the adapters; 'task-head' is all outside the backbone."},
    )

    method = ""
    """Name of the method, lower case; its upper case is the `PeftType`."""
    title = ""
    """What an adapter of the method is called in prose."""
    adapts = "modules"
    """What `target_modules` names."""
    trains = "adapters"
    """What is trained of the backbone."""

    def __post_init__(self) -> None:
        """Set the type by which PEFT knows the method; check and normalise the fields."""
        super().__post_init__()
        self.peft_type = PeftType(self.method.upper())
        if self.target_modules == "all-linear":
            raise ValueError(
                f"target_modules='all-linear' names linear layers, but this method adapts {self.adapts}. Leave "
                "target_modules out to adapt all."
            )
        for name in ("target_modules", "modules_to_save"):
            self._check_items(name, str, "names")
        self._normalise_names("target_modules")
        if self.target_modules == []:
            raise ValueError("target_modules=[] adapts nothing. Leave it out to adapt all, or name some.")
        if isinstance(self.modules_to_save, str) and self.modules_to_save != TASK_HEAD:
            raise ValueError(
                f"modules_to_save={self.modules_to_save!r}: give a list of names, or {TASK_HEAD!r} for all that stands "
                "outside the backbone."
            )

    def _normalise_names(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str):
            self._check_pattern(name)
        elif value is not None:
            # A sorted list, not a set as in other tuners: the saved file is then the same every time.
            setattr(self, name, sorted(value))

    def _check_choice(self, name: str, allowed: tuple) -> None:
        value = getattr(self, name)
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in allowed):
            raise ValueError(f"{name}={value!r}: choose one of {allowed}.")

    def _check_integer(self, name: str, minimum: int, maximum: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise ValueError(f"{name}={value!r}: give a whole number of at least {minimum} and at most {maximum}.")

    def _check_probability(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            raise ValueError(f"{name}={value!r}: give a probability from 0 up to but not including 1.")

    def _check_finite(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value!r}: give a number of at least 0.")

    def _check_pattern(self, name: str) -> None:
        try:
            re.compile(getattr(self, name))
        except re.error as error:
            raise ValueError(f"{name}={getattr(self, name)!r} is no regular expression: {error}.") from error

    def _check_items(self, name: str, kind: type, what: str) -> None:
        value = getattr(self, name)
        items = [value] if isinstance(value, kind) else value
        is_collection = isinstance(items, (list, tuple, set))
        if value is not None and not (
            is_collection and all(isinstance(item, kind) and not isinstance(item, bool) for item in items)
        ):
            raise ValueError(f"{name}={value!r}: give one or a list of {what}.")

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
        # PEFT saves the configuration of an adapter for inference; one saved by itself has no weights to miss.
        check_weights(Path(pretrained_model_name_or_path, subfolder or ""), is_needed=config.inference_mode)
        return config

    @classmethod
    def from_json_file(cls, path_json_file: str | Path, **kwargs: Any) -> dict[str, Any]:
        """Read a file with a configuration, or the newer one that a killed save has left beside it."""
        file = Path(path_json_file)
        weights = file.with_name(WEIGHTS_NAME)
        if weights.is_file():
            file = current_config(file, weights.read_bytes())
        return super().from_json_file(str(file), **kwargs)

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        """Refuse fields of a saved configuration that this version does not know, before anything is loaded.

        PEFT ignores them with a warning; but a field that changes what an adapter computes must not be ignored. One
        without a value cannot, so other versions of PEFT may add such.

        Raises:
            ValueError: If there is an unknown field with a value.
        """
        known = {known_field.name for known_field in fields(cls)}
        unknown = {name: value for name, value in kwargs.items() if name not in known}
        meaningful = sorted(name for name, value in unknown.items() if value)
        if meaningful:
            raise ValueError(
                f"The adapter's configuration has fields that {cls.__name__} does not know: {meaningful}. It was saved "
                "by a newer version, which you need to load it, or it was changed since."
            )
        return {name: value for name, value in kwargs.items() if name in known}


@dataclass
class ResidualAdapterConfig(MethodConfig):
    """Fields that all residual adapters share; see `MonaConfig` for what they mean."""

    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Blocks to leave out: names or endings of names, or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Ordinals of the blocks to adapt among all blocks of the model, from 0."}
    )
    sites: tuple[str, ...] = field(
        default=SITES, metadata={"help": "At which half of a block an adapter stands: 'attention', 'mlp' or both."}
    )
    init_weights: bool | Literal["paper"] = field(
        default=True,
        metadata={"help": "True: starts equal to the base. 'paper': the authors' initialisation. False: for tests."},
    )
    recompute_mlp: bool = field(
        default=False, metadata={"help": "Recompute the MLP branches in the backward pass: less memory, more time."}
    )
    recompute_attention: bool = field(
        default=False, metadata={"help": "Recompute the attention branches in the backward pass, too."}
    )

    adapts = "whole blocks"
    placement: ClassVar[type[Placement]] = AfterResidual
    """Where in a block the method's adapters stand."""
    child_name: ClassVar[str] = ""
    """Name of the block's child with the adapters; what names of weights begin with. Empty: the method's name."""

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        super().__post_init__()
        for name in ("exclude_modules", "sites"):
            self._check_items(name, str, "names")
        self._check_items("layers_to_transform", int, "whole numbers")
        self._normalise_names("exclude_modules")
        sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites or ())
        if not sites or not set(sites) <= set(self.placement.sites):
            raise ValueError(f"sites={self.sites!r}: choose from {self.placement.sites}.")
        self.sites = sites
        self._check_choice("init_weights", INIT_WEIGHTS)
        for site in SITES:
            self._check_choice(f"recompute_{site}", (True, False))

    @classmethod
    def child(cls) -> str:
        """Return the name of the block's child with the adapters."""
        return cls.child_name or cls.method

    @property
    def recomputed(self) -> tuple[str, ...]:
        """The sites whose branches are recomputed in the backward pass."""
        return tuple(site for site in SITES if getattr(self, f"recompute_{site}"))

    @property
    def needs_frames(self) -> str | None:
        """The setting that asks for blocks that see whole videos; None: there is none."""
        return None

    def sites_in(self, anatomy: BlockAnatomy) -> tuple[str, ...]:
        """Return the sites at which a block of this anatomy gets an adapter."""
        possible = self.placement.sites_of(anatomy)
        return tuple(site for site in self.sites if site in possible)

    def make_adapter(self, dim: int) -> ResidualAdapter:
        """Build one adapter of this method for blocks of `dim` channels, at its settings here."""
        raise NotImplementedError
