"""Models for dense prediction: pre-trained ones, or new ones around a pre-trained backbone."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, TrainingArguments

from mona_peft import load_backbone
from mona_peft.integration.selection import (
    backbone_of,
    backbone_prefix,
    input_embeddings,
    modules_outside,
    parameters_outside,
)
from mona_peft.tasks.models import retinanet
from mona_peft.tasks.reporting.model_card import load_pretrained_code
from mona_peft.tasks.training.arguments import ModelArguments

FOUR_STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class Architecture:
    """How a model is built around a backbone.

    Attributes:
        stages: Stages of the backbone whose feature maps it takes.
        settings: From channels and strides of these feature maps to what the model's config says of them.
        module: Name of the module whose import makes transformers' auto classes know it, if it is not theirs.
    """

    stages: tuple[str, ...]
    settings: Callable[[list[int], list[int]], dict[str, Any]] = lambda channels, strides: {}
    module: str | None = None


ARCHITECTURES = {
    "upernet": Architecture(FOUR_STAGES, lambda channels, strides: {"auxiliary_in_channels": channels[2]}),
    "mask2former": Architecture(
        FOUR_STAGES, lambda channels, strides: {"feature_strides": strides, "common_stride": strides[0]}
    ),
    "maskformer": Architecture(FOUR_STAGES),
    "rt_detr": Architecture(
        FOUR_STAGES[1:], lambda channels, strides: {"encoder_in_channels": channels, "feat_strides": strides}
    ),
    "deformable_detr": Architecture(FOUR_STAGES[1:], lambda channels, strides: {"use_timm_backbone": False}),
    "retinanet": Architecture(FOUR_STAGES[1:], module=retinanet.__name__),
}
"""Kinds of models that are built around a backbone, by the `model_type` of their config."""


@dataclass
class DenseModelArguments(ModelArguments):
    """Which model is adapted: a pre-trained one, or a new one around a pre-trained backbone."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Name on the hub, or folder, of a model pre-trained for this task; its head is new where it is for "
            "another number of classes. Without it: a new model around --backbone."
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "Name on the hub, or folder, of a pre-trained Swin or SwinV2, a classifier for instance, whose "
            "weights the model's backbone gets."
        },
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Without --model_name_or_path: the kind of model to build around --backbone."}
    )
    model_config: str | None = field(
        default=None,
        metadata={
            "help": "JSON of settings of the new model's config, such as '{\"hidden_size\": 256}'; those under "
            "backbone_config are the backbone's."
        },
    )

    @property
    def base_model(self) -> str | None:
        """Name or folder of the pre-trained model, or of the pre-trained backbone of a new one."""
        return self.model_name_or_path or self.backbone


def load_dense_model(
    auto_classes: Mapping[str, str], args: DenseModelArguments, classes: Sequence[str], adapter_dir: Path
) -> tuple[PreTrainedModel, list[str]]:
    """Loads a pre-trained model, or builds a new one around a pre-trained backbone.

    Args:
        auto_classes: Names of the classes of transformers that load models for the task, by `model_type`.
        args: Which model.
        classes: Names of the classes. A pre-trained model gets a new head where its own is for other classes.
        adapter_dir: Where what is trained will be saved, beside the config of a new model.

    Returns:
        The model, in evaluation mode and float32, and the lines of Python that load it as `base`.

    Raises:
        ValueError: There is no such model or backbone, it is not for this task, or they do not go together.
    """
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: number for number, name in enumerate(classes)}}
    attention = {"attn_implementation": args.attn_implementation}
    try:
        if args.model_name_or_path is None:
            config = _new_config(auto_classes, args, labels)
            auto_class = auto_classes[config.model_type]
            model = getattr(transformers, auto_class).from_config(config, **attention).eval()
            code = [
                f"from transformers import AutoConfig, {auto_class}",
                "",
                f"base = {auto_class}.from_config(AutoConfig.from_pretrained({adapter_dir.as_posix()!r}))",
                *_settle_bare_parameters(model),
            ]
        else:
            auto_class = _auto_class(auto_classes, args)
            load = partial(
                getattr(transformers, auto_class).from_pretrained, args.model_name_or_path, dtype=torch.float32
            )
            model = load(**labels, **attention, ignore_mismatched_sizes=True)
            if AutoConfig.from_pretrained(args.model_name_or_path).id2label != labels["id2label"]:
                keep_known_classes(model, load())
            code = load_pretrained_code(auto_class, args.model_name_or_path, classes)
        if args.backbone is not None:
            load_backbone(model, args.backbone)
            code = ["from mona_peft import load_backbone", *code, f"load_backbone(base, {args.backbone!r})"]
        code += tell_embeddings(model)
        architecture = ARCHITECTURES.get(model.config.model_type)
        if architecture is not None and architecture.module is not None:
            code = [f"import {architecture.module}  # of mona-peft's repository; registers the model", *code]
        return model, code
    except OSError as error:
        given = {"--model_name_or_path": args.model_name_or_path, "--backbone": args.backbone}
        raise ValueError(
            f"{', '.join(f'{option} {name}' for option, name in given.items() if name)}: neither a folder with a model "
            f"nor one that the hub returns. Check the name, and the connection if it is on the hub. ({error})"
        ) from error


def keep_known_classes(model: PreTrainedModel, known: PreTrainedModel) -> None:
    """Gives layers that score classes the rows of those that the pre-trained model knows, whatever their order there.

    They begin where the pre-trained model ends then, above all with what is no object: the background, or the last row
    of models whose queries may find nothing. Without it the first hundred steps unlearn where objects are.
    Where there are as many classes as before, those that are new begin with the rows of those that are gone.

    Args:
        model: For other classes, or for the same in another order; changed in place.
        known: The pre-trained model as it is.
    """
    # Not `label2id`: many configs of the hub have none, or one of `LABEL_0`, ...; and names may occur several times.
    old, new = known.config.id2label, model.config.id2label
    numbers = {label: number for number, label in reversed(old.items())}
    rows = {number: numbers[label] for number, label in new.items() if label in numbers}
    if len(old) == len(new):
        spare = [number for number in old if number not in rows.values()]
        rows |= dict(zip([number for number in new if number not in rows], spare, strict=False))
    parameters = dict(known.named_parameters())
    scoring = _class_parameters(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in scoring:
                surplus = len(parameter) - len(new) == len(parameters[name]) - len(old) == 1
                pairs = {**rows, len(new): len(old)} if surplus else rows
                # RetinaNet has the rows of all classes once for each of its anchors.
                anchors = 1 if surplus or len(parameter) % len(new) else len(parameter) // len(new)
                ours, theirs = (some.view(anchors, -1, *some.shape[1:]) for some in (parameter, parameters[name]))
                ours[:, list(pairs)] = theirs[:, list(pairs.values())]


def _class_parameters(model: PreTrainedModel) -> set[str]:
    """Returns the names of the parameters that have rows of their own for each class: one more makes them longer."""
    config = copy.deepcopy(model.config)
    config.id2label = {**config.id2label, len(config.id2label): "one more"}
    with torch.device("meta"):
        larger = dict(type(model)(config).named_parameters())
    return {name for name, parameter in model.named_parameters() if larger[name].shape[:1] != parameter.shape[:1]}


def checkpoint_backbone(model: PreTrainedModel, args: TrainingArguments) -> None:
    """Makes `--gradient_checkpointing` mean the backbone, in which nearly all memory is.

    `Trainer` asks the whole model, and UPerNet, Mask2Former, RT-DETR and others refuse.

    Args:
        model: Adapted already: PEFT would ask a checkpointed one for embeddings whose outputs detectors lack.
        args: Checkpointing is off in them afterwards.

    Raises:
        ValueError: It is to be PyTorch's older kind, which asks for a gradient of the input of the backbone.
    """
    if args.gradient_checkpointing:
        kind = {"use_reentrant": False, **(args.gradient_checkpointing_kwargs or {})}
        if kind["use_reentrant"]:
            raise ValueError(
                "--gradient_checkpointing_kwargs: with use_reentrant what is trained in a frozen backbone would get no "
                "gradient. Leave it out."
            )
        backbone = model.get_submodule(backbone_of(model))
        backbone.gradient_checkpointing_enable(kind)
        args.gradient_checkpointing = args.activation_checkpointing = False  # the old name and the new one


def _settle_bare_parameters(model: PreTrainedModel) -> list[str]:
    """Gives parameters that PEFT can't save, as they lie in no module of the head's, values that a reload finds again.

    Nor are they trained, but by `--method full`. Deformable DETR has one such, the embedding of its levels.

    Returns:
        The lines of Python that do so with `base`.
    """
    backbone, code = backbone_of(model), []
    for name in parameters_outside(model, backbone, modules_outside(model, backbone)):
        nn.init.normal_(model.get_parameter(name), generator=torch.Generator().manual_seed(0))
        code += [
            "import torch",
            f"torch.nn.init.normal_(base.get_parameter({name!r}), generator=torch.Generator().manual_seed(0))",
        ]
    return code


def tell_embeddings(model: PreTrainedModel) -> list[str]:
    """Lets a model that does not tell of its input embeddings answer with a layer of its backbone's.

    PEFT's own methods ask, to see what is tied to them, and several detectors raise.

    Returns:
        The lines of Python that do so with `base`.
    """
    if input_embeddings(model) is not None:
        return []
    layers = (
        name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
    )
    first = next(name for name in layers if name.startswith(backbone_prefix(model)))
    model.get_input_embeddings = partial(model.get_submodule, first)
    return [
        "from functools import partial",
        f"base.get_input_embeddings = partial(base.get_submodule, {first!r})  # PEFT asks, and the model would raise",
    ]


def _auto_class(auto_classes: Mapping[str, str], args: DenseModelArguments) -> str:
    name = args.model_name_or_path
    if args.model_type or args.model_config:
        raise ValueError(
            f"--model_type and --model_config describe a new model, and {name} has a config of its own. Give the one "
            "or the other."
        )
    model_type = AutoConfig.from_pretrained(name).model_type
    if model_type not in auto_classes:
        raise ValueError(
            f"--model_name_or_path {name}: a model of type {model_type}, not one for this task: "
            f"{', '.join(auto_classes)}. A pre-trained backbone is given with --backbone, beside --model_type."
        )
    return auto_classes[model_type]


def _new_config(
    auto_classes: Mapping[str, str], args: DenseModelArguments, labels: dict[str, dict]
) -> PreTrainedConfig:
    kinds = [kind for kind in auto_classes if kind in ARCHITECTURES]
    if args.backbone is None or args.model_type not in kinds:
        raise ValueError(
            f"--model_type {args.model_type}, --backbone {args.backbone}: without --model_name_or_path a new model is "
            f"built, of type {' or '.join(kinds)}, around a pre-trained backbone; for instance `--model_type "
            f"{kinds[0]} --backbone microsoft/swin-large-patch4-window7-224-in22k`."
        )
    architecture = ARCHITECTURES[args.model_type]
    backbone = AutoConfig.from_pretrained(args.backbone)
    if not hasattr(backbone, "embed_dim") or not hasattr(backbone, "stage_names"):
        raise ValueError(f"--backbone {args.backbone}: a model of type {backbone.model_type}, not a Swin or SwinV2.")
    given = _settings(args.model_config)
    backbone.update({**given.pop("backbone_config", {}), "out_features": list(architecture.stages)})
    levels = [FOUR_STAGES.index(stage) for stage in architecture.stages]
    channels = [backbone.embed_dim * 2**level for level in levels]
    strides = [backbone.patch_size * 2**level for level in levels]
    settings = {**architecture.settings(channels, strides), **given}
    config = AutoConfig.for_model(args.model_type, **settings, **labels, backbone_config=backbone)
    if unknown := [name for name in given if name not in type(config)().to_dict()]:
        raise ValueError(f"--model_config: the config of {args.model_type} has no {', '.join(unknown)}.")
    return config


def _settings(model_config: str | dict[str, Any] | None) -> dict[str, Any]:
    """Returns the settings that are given as JSON on the command line, or in a preset."""
    if not isinstance(model_config, str):
        return dict(model_config or {})
    try:
        return dict(json.loads(model_config))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"--model_config {model_config}: not an object in JSON ({error}).") from error
