"""Help for the arguments of a training: about twenty that matter, in groups; `--help all` shows the rest."""

from argparse import Action, ArgumentParser
from textwrap import wrap

GROUPS: dict[str, dict[str, str]] = {
    "Data": {
        "dataset": "",
        "augmentation": "",
        "image_size": "",
        "validation_fraction": "",
        "test_split": "",
    },
    "Model and method": {
        "model_name_or_path": "",
        "backbone": "",
        "model_type": "",
        "method": "What is trained beside the task head: mona, full, fixed (the head alone), lora, adaptformer, ...",
        "bottleneck_dim": "",
    },
    "Training": {
        "num_train_epochs": "Times that all training images are seen.",
        "learning_rate": "Highest learning rate.",
        "head_learning_rate": "",
        "per_device_train_batch_size": "Images a device and step.",
        "gradient_accumulation_steps": "Steps whose gradients are added up before the weights change.",
        "bf16": "Compute in bfloat16. Without it: where the GPU can.",
        "early_stopping_patience": "",
        "seed": "Of initialisation, order and augmentation.",
    },
    "Output": {
        "output_dir": "Folder for checkpoints, adapter, metrics, curves and model card.",
        "resume_from_checkpoint": "Go on from a checkpoint of this folder; `last` takes the newest.",
        "report_to": "wandb, tensorboard, mlflow, ...: where curves are sent while the training runs.",
        "push_to_hub": "Push what was trained to the hub.",
        "preset": "",
    },
}
"""Names of arguments, and what is said of them; without words: the first sentence of the argument's own help."""

WIDTH, COLUMN = 110, 34


def short_help(parser: ArgumentParser) -> str:
    """Returns the help that shows the arguments that matter.

    Args:
        parser: Of all arguments.
    """
    actions = {action.dest: action for action in parser._actions}
    lines = [parser.format_usage().strip(), "", *wrap(parser.description or "", WIDTH)]
    for title, names in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, words in names.items():
            if name in actions:
                lines += _entry(actions[name], words or first_sentence(actions[name].help or ""))
    lines += [
        "",
        "`--help all` shows all others: of the data, the method, and those of transformers.TrainingArguments.",
    ]
    return "\n".join(lines)


def _entry(action: Action, words: str) -> list[str]:
    option = "--model" if "--model" in action.option_strings else action.option_strings[0]
    default = "" if action.default in (None, "", False, True) or action.dest == "output_dir" else f" [{action.default}]"
    text = wrap(words + default, WIDTH - COLUMN)
    first = f"  {option}"
    head = [first.ljust(COLUMN) + text[0]] if len(first) < COLUMN else [first, " " * COLUMN + text[0]]
    return [*head, *(" " * COLUMN + line for line in text[1:])]


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text."""
    return text.replace("%%", "%").split(". ")[0].rstrip(".") + "."
