"""Moved to `mona_peft.tasks.data`: `checks`, `files` and `stored`."""

from mona_peft.tasks.data.checks import check_images
from mona_peft.tasks.data.files import find_images
from mona_peft.tasks.data.stored import picture_files

__all__ = ["check_images", "find_images", "picture_files"]
