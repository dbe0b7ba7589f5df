"""Photographs and artwork of Debian's packages of wallpapers, for distillation: downloaded by apt, never stored here.

gnome-backgrounds (CC BY-SA 3.0), mate-backgrounds (GPL-2 or later, CC BY-SA 4.0) and ukui-wallpapers (CC BY-SA 3.0):
the file `copyright` of each package says which picture is under which.
"""

import io
import subprocess
import tarfile
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from scripts.demonstration.wheels import cache_folder

PACKAGES = ("gnome-backgrounds", "mate-backgrounds", "ukui-wallpapers")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MIN_SIDE, MAX_SIDE = 400, 1024
"""Smaller pictures are icons; larger ones are shrunk."""


def wallpapers() -> list[Image.Image]:
    """Returns the pictures of all packages, in RGB and in the order of their names.

    Raises:
        OSError: apt can't download a package; another system than Debian has none.
    """
    folder = cache_folder() / "wallpapers"
    folder.mkdir(parents=True, exist_ok=True)
    return [picture for package in PACKAGES for picture in pictures_in(_package_file(package, folder))]


def pictures_in(package: Path) -> list[Image.Image]:
    """Returns the pictures in a Debian package, each once, at most `MAX_SIDE` pixels high and wide."""
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                try:
                    picture = Image.open(files.extractfile(member)).convert("RGB")
                except UnidentifiedImageError:
                    continue  # a format that this Pillow was built without
                if min(picture.size) >= MIN_SIDE:
                    picture.thumbnail((MAX_SIDE, MAX_SIDE))
                    found.append(picture)
    return found


def _package_file(name: str, folder: Path) -> Path:
    if not list(folder.glob(f"{name}_*.deb")):
        try:
            done = subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise OSError(f"{name}: apt-get is not here. Distillation needs the wallpapers of Debian.") from error
        if done.returncode:
            raise OSError(f"{name} could not be downloaded by apt-get.\n{done.stderr.strip()}")
    return sorted(folder.glob(f"{name}_*.deb"))[0]
