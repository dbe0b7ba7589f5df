"""Turns a checkpoint of the Mona authors' code into a PEFT adapter on a model of transformers.

    python -m scripts.load_official_checkpoint swin_t_mona_ade20k.pth openmmlab/upernet-swin-tiny \\
        --output_dir outputs/upernet-mona

The checkpoint may come from classification, detection or segmentation; its head is not read. With `--load_backbone` the
backbone's weights are taken from it too, and the base model with them is saved beside the adapter.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import transformers
from transformers import AutoConfig, PreTrainedModel

from mona_peft import load_official_checkpoint
from mona_peft.cli.errors import run_module


def load_model(name: str) -> PreTrainedModel:
    """Loads a model as the class that it was saved as.

    Raises:
        ValueError: Its configuration names no class.
    """
    classes = AutoConfig.from_pretrained(name).architectures
    if not classes:
        raise ValueError(f"The configuration of {name} does not name its class under `architectures`.")
    return getattr(transformers, classes[0]).from_pretrained(name)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="The .pth file.")
    parser.add_argument("model", help="Name on the hub, or folder, of a model with the same Swin.")
    parser.add_argument("--output_dir", required=True, help="Folder that gets the adapter.")
    parser.add_argument("--load_backbone", action="store_true", help="Take the backbone's weights from it too.")
    args = parser.parse_args(argv)
    model = load_official_checkpoint(load_model(args.model), args.checkpoint, load_backbone=args.load_backbone)
    output_dir = Path(args.output_dir)
    if args.load_backbone:
        base_model = model.unload()
        base_model.save_pretrained(output_dir / "base_model")
        model = load_official_checkpoint(base_model, args.checkpoint)
        model.peft_config["default"].base_model_name_or_path = str(output_dir / "base_model")
    model.save_pretrained(output_dir)
    print(f"The adapter is in {output_dir}" + (", its base model in base_model." if args.load_backbone else "."))


if __name__ == "__main__":
    run_module(main)
