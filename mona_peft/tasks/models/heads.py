"""Heads for other classes: what a pre-trained model knows of those that it shares with the new ones is kept."""

import copy

import torch
from transformers import PreTrainedModel


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
