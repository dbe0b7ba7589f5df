"""`mona-peft export`: what a run has trained, as a file that runs without this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "mona-peft export"
DISAGREES = 1


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Writes what `mona-peft train` has trained as one file, adapters folded, for any number of images "
        "at once: OUT/model.onnx (or OUT/model.pt2), and OUT/preprocessing.json, which says how images become its "
        "input and what its outputs are. The file is then run on images and compared with the model in PyTorch; one "
        "that does not agree is removed.",
        epilog="Exit code: 0; 1 if the file does not agree with the model; 2 if it can't be exported.",
    )
    parser.add_argument("run", metavar="RUN", help="output directory of `mona-peft train`, or name on the hub")
    parser.add_argument("--output_dir", metavar="OUT", required=True, type=Path, help="where the files are written")
    parser.add_argument(
        "--format",
        choices=["onnx", "torch"],
        default="onnx",
        help="torch: a program of torch.export (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="of the weights; fp16 computes in it too, int8 stores weights of matrix products in eight bits "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images that the file takes (default: what the image processor resizes to)",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="IMAGE_OR_FOLDER",
        help="to check the file with (default: images of the training data, where they are a folder here, else noise)",
    )
    parser.add_argument("--base_model", help="where the pre-trained model is now, if it has been moved")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
        ValueError: The model can't be exported so; the message says why.
    """
    args = parser().parse_args(argv)
    if args.image_size is not None and min(args.image_size) < 1:
        raise ValueError(f"--image_size {args.image_size[0]} {args.image_size[1]}: give two positive numbers.")

    from mona_peft.tasks.export.run import Disagreement, export_model
    from mona_peft.tasks.trained import load_run

    trained = load_run(args.run, base_model=args.base_model)
    try:
        written, found, said = export_model(
            trained.model,
            trained.image_processor,
            trained.labels,
            trained.task.command,
            args.output_dir,
            format=args.format,
            precision=args.precision,
            image_size=tuple(args.image_size) if args.image_size else None,
            images=args.images,
            dataset=trained.settings.get("dataset"),
        )
    except Disagreement as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return DISAGREES
    weights = sum(file.stat().st_size for file in trained.folder.glob("*.safetensors"))
    model_bytes = sum(parameter.nbytes for parameter in trained.model.parameters())
    print("\n".join(said))
    for name, difference in found.difference.items():
        print(f"{name}: differs from PyTorch by {difference:.3g} at most")
    print(f"relative to the largest value: {found.relative:.2g} ({found.limit:g} is allowed in {args.precision})")
    print(f"one image: {1000 * found.seconds['file']:.1f} ms, in PyTorch {1000 * found.seconds['pytorch']:.1f} ms")
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"(what was trained: {weights / 1e6:.2f} MB; the model in memory: {model_bytes / 1e6:.2f} MB)")
    return 0
