"""Base models of a task: as pre-trained, with a head for other classes, or new ones around a pre-trained backbone."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from mona_peft.files.weights import WEIGHTS_NAME
from mona_peft.interop.pretrained_backbone import load_backbone, without_report
from mona_peft.tasks.models.architectures import AUTO_CLASSES, check_is_pretrained, new_config
from mona_peft.tasks.models.arguments import DenseModelArguments, ModelArguments
from mona_peft.tasks.models.backbones import settle_bare_parameters, tell_embeddings
from mona_peft.tasks.models.heads import keep_known_classes
from mona_peft.tasks.task import IMAGE_CLASSIFICATION, Task


def load_classifier(args: ModelArguments, classes: Sequence[str]) -> PreTrainedModel:
    """Loads a pre-trained classifier, with a new head unless its head is for as many classes.

    What its head knows of classes of the same names is kept, whatever their order there.

    Args:
        args: Which model.
        classes: Names of the classes.

    Returns:
        The model, in evaluation mode and float32.

    Raises:
        ValueError: There is no such model.
    """
    with _naming(args):
        load = _pretrained(IMAGE_CLASSIFICATION.auto_class, args)
        model = load(**_labels(classes), **_attention(args))
        known = AutoConfig.from_pretrained(args.model_name_or_path).id2label
        if known != model.config.id2label and set(known.values()) & set(classes):
            keep_known_classes(model, load())
        return model


def load_dense_model(
    task: Task, args: DenseModelArguments, classes: Sequence[str], side: int | None = None
) -> PreTrainedModel:
    """Loads a pre-trained model, or builds a new one around a pre-trained backbone.

    Args:
        task: What the model is for.
        args: Which model.
        classes: Names of the classes. A pre-trained model gets a new head where its own is for other classes.
        side: In pixels, of the images of a new model that takes squares of one size alone. None: the backbone's.

    Returns:
        The model, in evaluation mode and float32.

    Raises:
        ValueError: There is no such model or backbone, it is not for this task, or they do not go together.
    """
    labels, auto_classes = _labels(classes), AUTO_CLASSES[task.command]
    with _naming(args):
        if args.model_name_or_path is None:
            config = new_config(auto_classes, args, labels, side)
            return _around_backbone(auto_classes[config.model_type], config, args)
        name = args.model_name_or_path
        load = _pretrained(auto_classes[check_is_pretrained(auto_classes, args)], args)
        model = load(**labels, **_attention(args))
        if AutoConfig.from_pretrained(name).id2label != labels["id2label"]:
            keep_known_classes(model, load())
        return _with_backbone(model, args)


def rebuild_base(task: Task, args: DenseModelArguments, classes: Sequence[str], folder: Path) -> PreTrainedModel:
    """Returns the model that an adapter was trained on, whose head the adapter brings along.

    Args:
        task: What was trained for.
        args: Which model it was.
        classes: Names of the classes.
        folder: Of the adapter; of a model that was built, it holds the config.

    Raises:
        ValueError: The pre-trained model or backbone is not to be found.
    """
    with _naming(args):
        if args.model_name_or_path is None:
            config = AutoConfig.from_pretrained(folder)
            return _around_backbone(auto_class_of(task, config.model_type), config, args)
        config = AutoConfig.from_pretrained(args.model_name_or_path)
        load = _pretrained(auto_class_of(task, config.model_type), args)
        with without_report():  # which is about the head; what the adapter does not bring along is told here
            model, loading = load(**_labels(classes), output_loading_info=True)
        _warn_of_new_weights(model, loading, args.model_name_or_path, folder)
        return model if task is IMAGE_CLASSIFICATION else _with_backbone(model, args)


def load_whole(task: Task, folder: Path) -> PreTrainedModel:
    """Loads a model that was trained whole."""
    auto_class = auto_class_of(task, AutoConfig.from_pretrained(folder).model_type)
    return getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32)


def auto_class_of(task: Task, model_type: str) -> str:
    """Returns the name of the class of transformers that loads models of a type for a task."""
    return AUTO_CLASSES.get(task.command, {}).get(model_type, task.auto_class)


def _labels(classes: Sequence[str]) -> dict[str, dict]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: number for number, name in enumerate(classes)}}


def _attention(args: ModelArguments) -> dict[str, Any]:
    return {"attn_implementation": args.attn_implementation}


def _pretrained(auto_class: str, args: ModelArguments) -> Callable[..., PreTrainedModel]:
    load = getattr(transformers, auto_class).from_pretrained
    return partial(load, args.model_name_or_path, dtype=torch.float32, ignore_mismatched_sizes=True)


def _around_backbone(auto_class: str, config: Any, args: DenseModelArguments) -> PreTrainedModel:
    model = getattr(transformers, auto_class).from_config(config, **_attention(args)).eval()
    settle_bare_parameters(model)
    return _with_backbone(model, args)


def _with_backbone(model: PreTrainedModel, args: DenseModelArguments) -> PreTrainedModel:
    if args.backbone is not None:
        load_backbone(model, args.backbone)
    tell_embeddings(model)
    return model


def _warn_of_new_weights(model: PreTrainedModel, loading: dict[str, Any], name: str, folder: Path) -> None:
    """Warns of weights that come neither from a pre-trained model nor from the folder of an adapter.

    Buffers are none: those of a loss, as long as there are classes (EoMT's), are computed.
    """
    with safe_open(folder / WEIGHTS_NAME, framework="pt") as file:
        brought = {key.removeprefix("base_model.model.") for key in file.keys()}  # noqa: SIM118 (no mapping)
    absent = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    new = absent & {key for key, _ in model.named_parameters()} - brought
    if new:
        warnings.warn(
            f"{name} has no weights for {min(new)} ({len(new)} in all), and the adapter in {folder} brings "
            "none: they are drawn at random. Is it the model that the adapter was trained on?",
            stacklevel=2,
        )


@contextmanager
def _naming(args: ModelArguments) -> Iterator[None]:
    """Turns what transformers raises where there is no such model into an error that names the argument."""
    try:
        yield
    except OSError as error:
        given = {"--model": args.model_name_or_path, "--backbone": getattr(args, "backbone", None)}
        raise ValueError(
            f"{', '.join(f'{option} {name}' for option, name in given.items() if name)}: neither a folder with a model "
            f"nor one that the hub returns. Check the name, and the connection if it is on the hub. ({error})"
        ) from error
