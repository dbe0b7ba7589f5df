"""VTAB-1k out of its archive on the hub, as tables that `mona-peft` reads."""

import csv
import zipfile
from pathlib import Path

from huggingface_hub import hf_hub_download

from scripts.published_tables.tables import Archive

LISTS = {"train": "train800.txt", "validation": "val200.txt", "test": "test.txt"}
"""Lists of images and the numbers of their classes, by split."""


def unpack(archive: Archive, folder: Path) -> Path:
    """Downloads an archive, unpacks it into a folder, and returns that; what is there already is left as it is.

    Raises:
        OSError: It can't be downloaded.
    """
    done = folder / ".unpacked"
    if not done.exists():
        with zipfile.ZipFile(hf_hub_download(archive.repository, archive.file, repo_type="dataset")) as packed:
            packed.extractall(folder)
        done.touch()
    return folder


def find_dataset(folder: Path, name: str) -> Path:
    """Returns the folder of a dataset among what was unpacked, with a table `labels.csv` of images, classes and splits.

    Raises:
        ValueError: There is no such dataset, or it lacks a list of images.
    """
    places = [path.parent for path in folder.rglob(LISTS["train"]) if path.parent.name == name]
    if len(places) != 1:
        found = sorted({path.parent.name for path in folder.rglob(LISTS["train"])})
        raise ValueError(f"{folder} has {len(places)} datasets called {name}. It has: {', '.join(found) or 'none'}.")
    (place,) = places
    if lacking := [file for file in LISTS.values() if not (place / file).is_file()]:
        raise ValueError(f"{place} lacks {', '.join(lacking)}.")
    rows = [
        (*line.rsplit(maxsplit=1), split)
        for split, file in LISTS.items()
        for line in (place / file).read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    with (place / "labels.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("image", "label", "split"), *rows])
    return place
