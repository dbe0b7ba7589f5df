"""Which splits of a dataset are used, for what, and how images are held out where there are none for it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from datasets import Dataset, DatasetDict

from mona_peft.tasks.data.checks import tell_of_leaks

ROLES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
"""What a split is for, by its usual names; capitals, a year and words such as "set" make no difference."""

Strata = Callable[[Dataset], Sequence[Hashable]]
"""From the rows of a split to what each shows, so that parts can be alike: its class, or the rarest of its classes."""


@dataclass
class SplitArguments:
    """Splits by the names that the dataset gives them, and how many images are held out or used.

    Attributes:
        only_evaluated: No argument: whether one split stands in for all, as nothing is trained. What is said of images
            to train on, and of images in two splits, has no meaning then.
    """

    only_evaluated: ClassVar[bool] = False
    train_split: str | None = field(
        default=None, metadata={"help": f"Split to train on. Without it, the one called {', '.join(ROLES['train'])}."}
    )
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Split to evaluate on during training. Without it, the one called "
            f"{', '.join(ROLES['validation'])}, else a part of the training split."
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of the training images that is held out where there is no validation split."},
    )
    test_split: str | None = field(
        default=None,
        metadata={"help": "Split to evaluate on at the end. Without it, the one called test. 'none': no test."},
    )
    test_fraction: float = field(
        default=0.0, metadata={"help": "Share of the training images that is held out where there is no test split."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on so many images at most, drawn by --seed."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many images at most of each split, drawn by --seed."}
    )


def role_of(name: str) -> str | None:
    """Returns what a split is for by its name, `train`, `validation` or `test`; None if its name does not tell."""
    plain = re.sub(r"[ _-]?\d{4}$", "", name.strip().casefold())
    plain = re.sub(r"[ _-]?(set|split|images|imgs|data)$", "", plain)
    return next((role for role, names in ROLES.items() if plain in names), None)


def choose_splits(present: Collection[str], args: SplitArguments) -> dict[str, str]:
    """Returns the splits that the arguments name, or that are there, by `train`, `validation` and `test`.

    Args:
        present: Names of the splits of the dataset.
        args: What the user wants.

    Raises:
        ValueError: A split is not there, or several may be meant; names those that are.
    """
    wanted = {"train": args.train_split, "validation": args.validation_split, "test": args.test_split}
    has = f"It has: {', '.join(present)}."
    chosen = {}
    for role, given in wanted.items():
        if given is not None and given != "none":
            same = [name for name in present if name == given] or [
                name for name in present if name.casefold() == given.casefold()
            ]
            if len(same) != 1:
                raise ValueError(f"--{role}_split {given}: the dataset has no such split. {has}")
            chosen[role] = same[0]
        elif given is None:
            found = [name for name in present if role_of(name) == role and name not in wanted.values()]
            if len(found) > 1:
                raise ValueError(
                    f"Several splits may be meant for {role}: {', '.join(found)}. Say which with --{role}_split."
                )
            if found:
                chosen[role] = found[0]
    if "train" not in chosen:
        others = [name for name in present if name not in chosen.values()]
        if len(others) != 1 or len(chosen) > 0:
            raise ValueError(f"--train_split: the dataset has no split of training images by its name. {has}")
        chosen["train"] = others[0]  # one split whose name says nothing, such as "default"
    return chosen


def hold_out(splits: DatasetDict, args: SplitArguments, seed: int, strata: Strata) -> DatasetDict:
    """Gives a dataset the splits that it lacks, out of its training images, and no more images than are asked for.

    Images that then stand in two splits are told of.

    Args:
        splits: `train`, and `validation` and `test` where there are such; their rows have an `image`, not decoded.
        args: Shares and numbers of images.
        seed: Of what is drawn.
        strata: What each row shows: parts have the same share of each, as far as that goes.

    Raises:
        ValueError: A share or a number is out of range, or too few images would be left.
    """
    parts = dict(splits)
    for role, fraction in (("test", args.test_fraction), ("validation", args.validation_fraction)):
        if role in parts or (role == "test" and fraction == 0):
            continue
        rows = parts["train"]
        # Of all training images that were there, so that both shares mean the same.
        size = validation_size(len(rows), fraction * len(splits["train"]) / len(rows), f"--{role}_fraction {fraction}")
        chosen = draw(strata(rows), size, seed)
        rest = sorted(set(range(len(rows))) - set(chosen))
        parts[role], parts["train"] = rows.select(chosen), rows.select(rest)
    for role, rows in parts.items():
        option = "max_train_samples" if role == "train" else "max_eval_samples"
        most = getattr(args, option)
        if most is not None and most < 1:
            raise ValueError(f"--{option} {most}: give a whole number of at least 1.")
        if most is not None and most < len(rows):
            parts[role] = rows.select(draw(strata(rows), most, seed))
    if not args.only_evaluated:
        tell_of_leaks(parts)
    return DatasetDict(parts)


def validation_size(count: int, fraction: float, given: str = "--validation_fraction") -> int:
    """Returns how many of `count` images are held out.

    Raises:
        ValueError: The fraction is none, or too few images would be left.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"{given}: must lie between 0 and 1, and leave images to train on.")
    size = max(1, round(count * fraction))
    if size >= count:
        raise ValueError(f"{count} image(s) are too few to hold out images for {given}. Give a split of its own.")
    return size


def draw(strata: Sequence[Hashable], size: int, seed: int) -> list[int]:
    """Draws rows by chance, of each stratum its share.

    Args:
        strata: Of each row.
        size: How many rows.
        seed: The same rows come of the same seed.

    Returns:
        The numbers of the rows, in rising order.
    """
    random = Random(seed)
    by_stratum: dict[Hashable, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata):
        by_stratum[stratum].append(row)
    shares = {stratum: size * len(rows) / len(strata) for stratum, rows in by_stratum.items()}
    counts = {stratum: int(share) for stratum, share in shares.items()}
    # What is left goes to the largest remainders; of equal ones chance decides.
    order = sorted(shares, key=lambda stratum: (counts[stratum] - shares[stratum], random.random()))
    for stratum in order[: size - sum(counts.values())]:
        counts[stratum] += 1
    return sorted(row for stratum, rows in by_stratum.items() for row in random.sample(rows, counts[stratum]))


def rarest(labels: Sequence[Collection[Hashable]]) -> list[Hashable]:
    """Returns the rarest of the labels of each row, by which rows of several labels are shared out; None where none."""
    counts = Counter(label for row in labels for label in set(row))
    return [min(set(row), key=lambda label: (counts[label], str(label)), default=None) for row in labels]
