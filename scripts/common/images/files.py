"""Image files: those of a folder, checked before training starts, and pictures as datasets store them."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import Image
from tqdm import tqdm

MAX_NAMED = 5


def find_images(folder: Path) -> list[Path]:
    """Returns the files below a folder that `datasets` takes for images, sorted.

    As there, files and folders whose names begin with `.` or `__` do not count.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ImageFolder.EXTENSIONS
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )


def check_images(paths: list[Path]) -> None:
    """Reads every image once, to its end.

    Raises:
        ValueError: Some can't be read; the message names them and says why.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        reasons = list(tqdm(pool.map(why_unreadable, paths), "Reading images", len(paths), disable=None))
    broken = [f"\n  {path}: {reason}" for path, reason in zip(paths, reasons, strict=True) if reason]
    if broken:
        more = f"\n  and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
        raise ValueError(
            f"{len(broken)} of {len(paths)} images can't be read. Replace or remove them, then start again:"
            f"{''.join(broken[:MAX_NAMED])}{more}"
        )


def why_unreadable(path: Path) -> str | None:
    """Returns what is wrong with an image file, or None."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (32, 32))  # a JPEG is still read to its end, but only a small picture is computed
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        return f"{type(error).__name__}: {error}"
    return None


def stored_png(image: Image.Image) -> dict[str, Any]:
    """Returns a picture as `datasets.Image(decode=False)` gives it: losslessly encoded, without a path."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return {"bytes": encoded.getvalue(), "path": None}
