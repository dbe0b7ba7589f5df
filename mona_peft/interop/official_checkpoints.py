"""Checkpoints of the Mona authors' code: read into a PEFT adapter on a model of transformers, and written back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from mona_peft.blocks import width_of
from mona_peft.integration.heads import head_names
from mona_peft.integration.selection import known_blocks
from mona_peft.integration.tuner import check_adapter_name
from mona_peft.interop.official_names import MONA_PARAMETERS, MONA_SITES, backbone_names, block_names, mona_names
from mona_peft.methods.mona import MAX_BOTTLENECK_DIM, Mona, MonaConfig

STATE_DICTS = ("state_dict", "model")
"""Where checkpoints keep the weights; `meta`, `optimizer` and the like stand beside them."""

MONA_KEY = re.compile(
    rf"(?P<prefix>.*?)(?P<block>layers\.\d+\.blocks\.\d+)\.(?P<site>{'|'.join(MONA_SITES)})\.(?P<parameter>.+)"
)
FORM = (
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "sites",
    "kernel_sizes",
    "norm_position",
    "filter_reduction",
)
"""Fields of the configuration that the authors' Monas settle."""
OPTIONAL = re.compile(r"norm\d*\.(?:weight|bias)")
"""Norms behind the stages: which of them there are depends on what the features are used for."""


def load_official_checkpoint(
    model: nn.Module,
    path: str | Path,
    adapter_name: str = "default",
    config: MonaConfig | None = None,
    load_backbone: bool = False,
) -> PeftModel:
    """Put the Monas of a checkpoint of the authors' code on a model with a Swin backbone.

    The keys may stand below any prefix (`backbone.` in detection and segmentation), in a dict with `state_dict` or
    `model` beside `meta` and `optimizer`, and together with heads, which are not read. Nothing is changed before the
    whole file is known to fit.

    Args:
        model: Model with a Swin backbone (Swin, MaskFormer-Swin or Donut-Swin), adapted already or not.
        path: The `.pth` file; it is read with `weights_only=True`, so that it runs no code.
        adapter_name: Name of the new adapter.
        config: Its configuration, if it is to train further modules, for example; `bottleneck_dim` is taken from the
            file. Its form is not free: the authors' Monas are in every block, and are the paper's.
        load_backbone: Load the backbone's weights too. Without it the model should have the pre-trained weights that
            the authors' model was trained on, in which the norms behind the stages are not contained.

    Returns:
        The model with the adapter.

    Raises:
        ValueError: If the file cannot be read, holds no Mona, or does not fit, or if `config` or `adapter_name` can't
            be; the message names blocks and shapes. The model is then as it was.

    Example:
        >>> model = UperNetForSemanticSegmentation.from_pretrained(...)
        >>> model = load_official_checkpoint(model, "swin_t_mona_ade20k.pth")
        >>> model.save_pretrained("swin-t-mona-ade20k")
    """
    config = MonaConfig(modules_to_save=[]) if config is None else config
    _check_config(config)
    check_adapter_name(adapter_name)
    base_model = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(model, PeftModel) and adapter_name in model.peft_config:
        raise ValueError(f"There is an adapter {adapter_name!r} already; give another adapter_name.")
    official = _below_prefix(_read_state_dict(path), path)
    blocks = block_names(base_model, known_blocks(base_model))
    bottleneck_dim = _bottleneck_dim(official, path)
    names = mona_names(blocks, adapter_name)
    shapes = _mona_shapes(base_model, blocks, bottleneck_dim)
    if load_backbone:
        backbone = {
            theirs: ours
            for theirs, ours in backbone_names(base_model, blocks).items()
            if theirs in official or not _is_optional(theirs)
        }
        names |= backbone
        shapes |= {theirs: _joined(base_model, ours).shape for theirs, ours in backbone.items()}
    _check_fit(official, shapes, path)

    _check_numbers({key: official[key] for key in shapes}, path)
    config = replace(config, bottleneck_dim=bottleneck_dim)
    head_names(base_model, config)  # raises if its heads are none of this model's
    if isinstance(model, PeftModel):
        model.add_adapter(adapter_name, config)
    else:
        model = get_peft_model(model, config, adapter_name)
    with torch.no_grad():
        for theirs, ours in names.items():
            parameters = [base_model.get_parameter(name) for name in ours]
            parts = official[theirs].split([parameter.shape[0] for parameter in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part)
    return model


def official_state_dict(
    model: PeftModel, adapter_name: str = "default", prefix: str = "", include_backbone: bool = False
) -> dict[str, torch.Tensor]:
    """Return an adapter under the names of the authors' code, the inverse of `load_official_checkpoint`.

    Args:
        model: Model with the adapter; Mona's paper form, in both sites of every block.
        adapter_name: Name of the adapter.
        prefix: What the keys begin with, such as `"backbone."` for detection and segmentation.
        include_backbone: Write the backbone's weights too.

    Raises:
        ValueError: If the adapter has another form, or the backbone is no Swin.

    Example:
        >>> torch.save({"state_dict": official_state_dict(model, prefix="backbone.")}, "swin_t_mona.pth")
    """
    base_model = model.get_base_model()
    blocks = block_names(base_model, known_blocks(base_model))
    names = mona_names(blocks, adapter_name)
    ours = {name for name, _ in base_model.named_parameters() if ".mona_" in name and f".{adapter_name}." in name}
    if differing := ours ^ {name for group in names.values() for name in group}:
        raise ValueError(
            f"The authors' code has Monas with filters of 3, 5 and 7 and a norm at the input, at both sites of every "
            f"block. The adapter {adapter_name!r} has another form: {sorted(differing)[0]} is only in one of them."
        )
    if include_backbone:
        names |= backbone_names(base_model, blocks)
    return {f"{prefix}{theirs}": _joined(base_model, group).detach().clone() for theirs, group in names.items()}


def _joined(model: nn.Module, names: tuple[str, ...]) -> torch.Tensor:
    return torch.cat([model.get_parameter(name) for name in names])


def _is_optional(theirs: str) -> bool:
    return OPTIONAL.fullmatch(theirs) is not None


def _read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes PyTorch raise almost anything
            reason = next(iter(str(error).splitlines()), "")
            raise ValueError(
                f"{path} cannot be read as a checkpoint of tensors alone. It may be damaged. If it holds other objects "
                "too and you trust its origin, save its weights anew with the code that wrote it: "
                f"torch.save({{'state_dict': ...}}, path). ({type(error).__name__}: {reason})"
            ) from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in STATE_DICTS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of a state dict.")
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}


def _below_prefix(state_dict: dict[str, torch.Tensor], path: str | Path) -> dict[str, torch.Tensor]:
    prefixes = sorted({match["prefix"] for key in state_dict if (match := MONA_KEY.fullmatch(key))})
    if len(prefixes) != 1:
        what = f"Monas below several prefixes, {prefixes}," if prefixes else "no Mona"
        raise ValueError(
            f"{path} holds {what} and one is needed: keys such as layers.0.blocks.0.my_module_1.project1.weight, "
            f"perhaps below `backbone.`. Its first keys are {list(state_dict)[:5]}."
        )
    return {key.removeprefix(prefixes[0]): value for key, value in state_dict.items() if key.startswith(prefixes[0])}


def _check_config(config: MonaConfig) -> None:
    """Refuse a configuration of Monas that are not the authors', whose weights would mean something else in it."""
    paper = MonaConfig()
    differing = [name for name in FORM if getattr(config, name) != getattr(paper, name)]
    if differing:
        raise ValueError(
            "The authors' checkpoints hold the paper's Mona in every block, and config asks for "
            f"{', '.join(f'{name}={getattr(config, name)!r}' for name in differing)}. Leave it out: it has to be "
            f"{', '.join(f'{name}={getattr(paper, name)!r}' for name in differing)}."
        )


def _bottleneck_dim(official: dict[str, torch.Tensor], path: str | Path) -> int:
    shapes = {key: _shape(tensor) for key, tensor in official.items() if key.endswith(".project1.weight")}
    key, shape = next(iter(shapes.items()), ("", ()))
    if len(shape) != 2 or not 0 < shape[0] <= MAX_BOTTLENECK_DIM:
        what = f"{key} has the shape {shape}" if key else "there is no project1.weight"
        raise ValueError(
            f"{path}: {what}, and the width of a Mona's bottleneck is the first of two numbers there, from 1 to "
            f"{MAX_BOTTLENECK_DIM}."
        )
    return shape[0]


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape; that of nested tensors, which have none, is empty."""
    return () if tensor.is_nested else tuple(tensor.shape)


def _check_numbers(tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """Refuse tensors that are no plain floating point numbers, all of them in the file."""
    odd = {}
    for key, tensor in tensors.items():
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            odd[key] = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            odd[key] = "fewer numbers than its shape says"
    if odd:
        key = next(iter(odd))
        raise ValueError(
            f"{path} does not fit this model, and nothing was changed: weights are dense tensors of floating point "
            f"numbers, and {key} is not ({odd[key]})" + (f", nor are {len(odd) - 1} more." if len(odd) > 1 else ".")
        )


def _mona_shapes(model: nn.Module, blocks: dict[str, str], bottleneck_dim: int) -> dict[str, torch.Size]:
    shapes = {}
    for ours, official in blocks.items():
        with torch.device("meta"):
            mona = Mona(width_of(model.get_submodule(ours)), bottleneck_dim)
        for site in MONA_SITES:
            for theirs, parameter in MONA_PARAMETERS.items():
                shapes[f"{official}.{site}.{theirs}"] = mona.get_parameter(parameter).shape
    return shapes


def _check_fit(official: dict[str, torch.Tensor], shapes: dict[str, torch.Size], path: str | Path) -> None:
    complaints = {
        "has no": [key for key in shapes if key not in official],
        "has, but the model has no place for,": [
            key for key in official if MONA_KEY.fullmatch(key) and key not in shapes
        ],
        "has in another shape": [
            f"{key} {_shape(official[key])}, here {tuple(shape)},"
            for key, shape in shapes.items()
            if key in official and _shape(official[key]) != shape
        ],
    }
    if any(complaints.values()):
        found = "; ".join(
            f"it {what} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
            for what, keys in complaints.items()
            if keys
        )
        raise ValueError(f"{path} does not fit this model, and nothing was changed: {found}.")
