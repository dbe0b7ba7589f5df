"""Which splits of a dataset a script uses, for what, and how it gets validation images where there are none."""

from collections.abc import Collection
from dataclasses import dataclass, field

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

VALIDATION_NAMES = ("validation", "val", "valid", "dev")


@dataclass
class SplitArguments:
    """Splits by the names that the dataset gives them, and the dataset's configuration, which has them."""

    dataset_config: str | None = field(default=None, metadata={"help": "Configuration, where a dataset has several."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": f"Split to evaluate on during training. Without it: {' or '.join(VALIDATION_NAMES)} where the "
            "dataset has one, else a part of the training split."
        },
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training split that is split off where there is no validation."}
    )
    test_split: str | None = field(
        default=None,
        metadata={"help": "Split to evaluate on at the end. Without it: 'test' where there is one. 'none': no test."},
    )


def load_named_dataset(name: str, config: str | None) -> DatasetDict:
    """Loads a dataset of the hub, or a folder in a form that `datasets` reads by itself.

    Raises:
        ValueError: There is no such dataset, or it can't be read.
    """
    try:
        return load_dataset(name, config)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"--dataset {name}: neither a folder here nor a dataset that the hub returns. Check the name, and the "
            f"connection if it is on the hub. ({error})"
        ) from error
    except (DatasetsError, RuntimeError, ValueError) as error:  # a broken table, a dataset that is a script, ...
        raise ValueError(f"--dataset {name}: can't be read ({type(error).__name__}: {error})") from error


def choose_splits(present: Collection[str], args: SplitArguments) -> dict[str, str]:
    """Returns the splits that the arguments name, or that are there, by `train`, `validation` and `test`.

    Args:
        present: Names of the splits of the dataset.
        args: What the user wants.

    Raises:
        ValueError: A split is not there; names those that are.
    """
    validation = args.validation_split or next((name for name in VALIDATION_NAMES if name in present), None)
    test = args.test_split or ("test" if "test" in present else "none")
    wanted = {"train": args.train_split, "validation": validation, "test": None if test == "none" else test}
    chosen = {role: name for role, name in wanted.items() if name is not None}
    for role, name in chosen.items():
        if name not in present:
            raise ValueError(f"--{role}_split {name}: the dataset has no such split. It has: {', '.join(present)}.")
    return chosen


def validation_size(count: int, fraction: float) -> int:
    """Returns how many of `count` images are split off for validation.

    Raises:
        ValueError: The fraction is none, or too few images would be left.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--validation_fraction {fraction}: must lie between 0 and 1.")
    size = max(1, round(count * fraction))
    if size >= count:
        raise ValueError(f"{count} image(s) are too few to split off validation images. Give a validation split.")
    return size
