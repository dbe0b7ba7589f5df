"""`mona-peft predict`: what a run has trained, used on image files and folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "mona-peft predict"
SOME_UNREADABLE = 1
MAX_NAMED = 10


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Predicts images with what `mona-peft train` has trained. Writes OUT/predictions.jsonl, a line an "
        "image, for semantic segmentation OUT/masks/*.png, and pictures of what was found in OUT/pictures/. The same "
        "command goes on where it was stopped. On several GPUs: torchrun --nproc_per_node N -m mona_peft predict ...",
        epilog="Exit code: 0; 1 if some images can't be read; 2 if the arguments can't be used.",
    )
    parser.add_argument("run", metavar="RUN", help="output directory of `mona-peft train`, or name on the hub")
    parser.add_argument(
        "images", metavar="IMAGE_OR_FOLDER", nargs="+", help="image files, folders, or patterns such as 'a/**/*.jpg'"
    )
    parser.add_argument("--output_dir", metavar="OUT", required=True, type=Path, help="where predictions are written")
    parser.add_argument(
        "--threshold",
        type=float,
        help="least score of an object, or of a class of several (default: 0.5; of several classes the best for each "
        "on the validation images)",
    )
    parser.add_argument("--no_pictures", action="store_true", help="draw nothing into OUT/pictures/")
    parser.add_argument(
        "--tile_size",
        type=int,
        metavar="PIXELS",
        help="predict larger images in overlapping windows with this side (detection and segmentation), as for small "
        "objects in large pictures",
    )
    parser.add_argument(
        "--tile_overlap",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of a window that its neighbour sees too; an object should fit into it (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=["jsonl", "coco"],
        default="jsonl",
        help="coco: also COCO's results, OUT/coco_results.json, of boxes or masks (default: %(default)s)",
    )
    parser.add_argument(
        "--coco_annotations", metavar="FILE", help="with --format coco: take the numbers of images and categories here"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="images at once (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, help="processes that read images (default: by the cores)")
    parser.add_argument("--base_model", help="where the pre-trained model is now, if it has been moved")
    parser.add_argument("--use_cpu", action="store_true", help="even if there is a GPU")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
        ValueError: The arguments can't be used; the message says what to do.
    """
    args = parser().parse_args(argv)
    for name, fits in {
        "threshold": args.threshold is None or 0 <= args.threshold <= 1,
        "tile_size": args.tile_size is None or args.tile_size >= 1,
        "tile_overlap": 0 <= args.tile_overlap < 1,
        "batch_size": args.batch_size >= 1,
        "num_workers": args.num_workers is None or args.num_workers >= 0,
    }.items():
        if not fits:
            limits = "0 to 1" if name in ("threshold", "tile_overlap") else "a whole number, at least 1"
            raise ValueError(f"--{name} {getattr(args, name)}: must be {limits}.")
    if args.coco_annotations is not None and args.format != "coco":
        raise ValueError("--coco_annotations goes with --format coco.")

    import torch
    from accelerate import PartialState

    from mona_peft.tasks.messages import first_of
    from mona_peft.tasks.prediction.coco import write_coco
    from mona_peft.tasks.prediction.inputs import find_inputs
    from mona_peft.tasks.prediction.predictors import PREDICTORS
    from mona_peft.tasks.prediction.run import predict_images
    from mona_peft.tasks.trained import load_run

    inputs = find_inputs(args.images)
    # Without a GPU processes know of each other only if the CPU is asked for; each would predict all images.
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    trained = load_run(args.run, base_model=args.base_model)
    task, kind = trained.task.command, PREDICTORS[trained.task.command]
    if args.tile_size is not None and not kind.in_windows:
        raise ValueError(f"--tile_size: {trained.task.name} looks at whole images.")
    if args.format == "coco" and not kind.finds_objects:
        raise ValueError(f"--format coco is for boxes and masks of objects, and {args.run} is for {trained.task.name}.")
    own = trained.record.get("thresholds", {}).get("validation")
    threshold = own if args.threshold is None else args.threshold
    predictor = kind(
        trained.model.to(state.device), trained.image_processor, trained.labels, trained.settings, threshold
    )
    settings = {
        "run": args.run,
        "task": task,
        "labels": trained.labels,
        "weights": weights_id(trained.folder),
        "threshold": predictor.threshold,
        "tile_size": args.tile_size,
        "tile_overlap": args.tile_overlap if args.tile_size else None,
    }
    try:
        lines, errors = predict_images(
            predictor,
            task,
            inputs,
            args.output_dir,
            settings,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            tile_size=args.tile_size,
            tile_overlap=args.tile_overlap,
            pictures=not args.no_pictures,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted. The same command goes on in {args.output_dir}.") from None
    if state.is_main_process:
        print(f"{len(lines)} images are predicted in {args.output_dir / 'predictions.jsonl'}.")
        if args.format == "coco":
            written = write_coco(lines, trained.labels, args.output_dir, args.coco_annotations)
            print(f"In COCO's format: {', '.join(map(str, written))}.")
        if errors:
            reasons = [f"{path}: {error}" for path, error in errors.items()]
            print(
                f"{len(errors)} of {len(inputs)} images can't be read, and are left out. Replace them, then give the "
                f"same command again:\n  {first_of(reasons, MAX_NAMED, chr(10) + '  ')}",
                file=sys.stderr,
            )
    return SOME_UNREADABLE if errors else 0


def weights_id(folder: Path) -> str:
    """Returns what changes when a run is trained anew: sizes and times of its files of weights."""
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)
