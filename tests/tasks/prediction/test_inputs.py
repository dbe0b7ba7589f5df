"""What a user may give as images, and what files that are made of them are called."""

import os

import pytest
from PIL import Image

from mona_peft.tasks.prediction.inputs import find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a.png", "a.jpg", "sub/a.png", "sub/[x].png", ".hidden/b.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith(".txt"):
            (tmp_path / name).write_text("no image")
        else:
            Image.new("RGB", (4, 4)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(*given: str) -> dict[str, str]:
    return {str(image.path): image.name for image in find_inputs(given)}


def test_folders_files_and_patterns(folder):
    assert named(".") == {"a.jpg": "a.jpg", "a.png": "a.png", "sub/[x].png": "sub/[x]", "sub/a.png": "sub/a"}
    assert named("sub") == {"sub/[x].png": "[x]", "sub/a.png": "a"}
    assert named("sub/[x].png") == {"sub/[x].png": "[x]"}  # a file, though it looks like a pattern
    assert named("**/*.png") == {"a.png": "a", "sub/[x].png": "sub/[x]", "sub/a.png": "sub/a"}
    assert named("sub/a.png", "a.png") == {"sub/a.png": "sub/a", "a.png": "a"}
    assert named(str(folder / "a.png")) == {str(folder / "a.png"): "a"}


def test_a_file_counts_once(folder):
    assert list(named("sub/a.png", "sub", "./sub/../sub/a.png")) == ["sub/a.png", "sub/[x].png"]
    os.symlink(folder / "a.png", folder / "link.png")
    assert list(named("a.png", "link.png")) == ["a.png"]


@pytest.mark.parametrize("given", ["b.png", "sub/b.png", "*.gif", "none/*.png"])
def test_what_is_not_there_is_named(folder, given):
    with pytest.raises(ValueError, match="no such file or folder, and no pattern") as error:
        find_inputs([given])
    assert given in str(error.value)
    assert ("a.png" in str(error.value)) or ("sub" in str(error.value))


def test_folders_without_images(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in this folder"):
        find_inputs(["empty"])
