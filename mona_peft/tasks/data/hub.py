"""Datasets of the hub, and folders in the forms that `datasets` reads by itself."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


@dataclass
class HubArguments:
    """Where on the hub a dataset is."""

    dataset_config: str | None = field(default=None, metadata={"help": "Configuration, where a dataset has several."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a dataset of the hub."}
    )
    token: str | None = field(
        default=None, metadata={"help": "For private datasets of the hub. Without it, the one of `hf auth login`."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for what is loaded from the hub."})


def load_named_dataset(name: str, args: HubArguments) -> DatasetDict:
    """Loads a dataset of the hub, or a folder in a form that `datasets` reads by itself.

    Raises:
        ValueError: There is no such dataset, or it can't be read.
    """
    place = {"revision": args.dataset_revision, "token": args.token, "cache_dir": args.cache_dir}
    try:
        return load_dataset(name, args.dataset_config, **place)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"--dataset {name}: neither a folder here nor a dataset that the hub returns. Check the name, and the "
            f"connection if it is on the hub. ({error})"
        ) from error
    except (DatasetsError, RuntimeError, ValueError) as error:  # a broken table, a dataset that is a script, ...
        raise ValueError(f"--dataset {name}: can't be read ({type(error).__name__}: {error})") from error


def read_hub_json(name: str, file: str, args: HubArguments) -> Any | None:
    """Returns the content of a JSON file beside a dataset, of the hub or in a folder; None where there is none."""
    path = Path(name, file)
    if not Path(name).is_dir():
        place = {"revision": args.dataset_revision, "token": args.token, "cache_dir": args.cache_dir}
        try:
            path = Path(hf_hub_download(name, file, repo_type="dataset", **place))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
            return None
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
