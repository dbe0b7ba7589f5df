"""Tables of others: every line is one that `mona-peft compare` takes, and VTAB-1k's lists become a table it reads."""

import zipfile

import pytest
from PIL import Image

from mona_peft.cli import compare
from mona_peft.tasks.comparison.command import check_own, make_comparison
from mona_peft.tasks.comparison.study import STUDIES
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from mona_peft.tasks.training.presets import find_preset
from scripts.published_tables import __main__ as command
from scripts.published_tables import archive
from scripts.published_tables.tables import Archive, read_tables

TABLES = read_tables()
PARTS = {f"{name} {part.name}": part for name, table in TABLES.items() for part in table.parts.values()}


@pytest.mark.parametrize("name", PARTS)
def test_every_line_is_one_that_compare_takes(name, tmp_path):
    part = PARTS[name]
    arguments = part.arguments(part.dataset or "folder", tmp_path)
    args, others = compare.parser(list(STUDIES)).parse_known_args(arguments)
    check_own(others)
    study = STUDIES[args.task]
    comparison = make_comparison(study, args, args.models, ["--dataset", args.dataset, *others], study.rows)
    assert {row.name for row in comparison.rows} == set(part.rows)
    (experiment, *_) = comparison.missing({})
    model, data, _, training = experiment.arguments(str(tmp_path))
    assert part.model == model.base_model
    assert data.dataset == args.dataset
    assert experiment.learning_rate == training.learning_rate
    assert find_preset(part.preset).is_file()
    assert part.dataset or any(part in table.parts.values() and table.archive for table in TABLES.values())


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """VTAB-1k's archive in small: one dataset of two classes."""
    image, file = tmp_path / "image.png", tmp_path / "vtab-1k.zip"
    Image.new("RGB", (8, 8), "red").save(image)
    with zipfile.ZipFile(file, "w") as written:
        for split, text, count in (("train", "train800.txt", 4), ("val", "val200.txt", 2), ("test", "test.txt", 6)):
            names = [f"images/{split}/{number:06}.png" for number in range(count)]
            for name in names:
                written.write(image, f"vtab-1k/cifar/{name}")
            lines = [f"{name} {number % 2}\n" for number, name in enumerate(names)]
            written.writestr(f"vtab-1k/cifar/{text}", "".join(lines))
    monkeypatch.setattr(archive, "hf_hub_download", lambda repository, name, repo_type: file)
    return tmp_path


def test_lists_of_vtab_become_a_table(packed):
    folder = archive.unpack(Archive("some/name", "vtab-1k.zip"), packed / "data")
    place = archive.find_dataset(folder, "cifar")
    splits = load_image_classification(DataArguments(dataset=str(place)), seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "validation": 2, "test": 6}
    assert splits["test"].features["label"].names == ["0", "1"]
    with pytest.raises(ValueError, match=r"svhn.*cifar"):
        archive.find_dataset(folder, "svhn")


def test_a_table_runs_dataset_by_dataset(packed, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(compare, "run", given.append)
    out = packed / "out"
    command.main(["run", "vtab-vit", "--only", "cifar", "--output_dir", str(out), "--jobs", "2"])
    assert [arguments[0] for arguments in given] == ["image-classification"]
    assert given[0][-2:] == ["--jobs", "2"]
    assert str(out / "data" / "vtab-1k" / "cifar") in given[0]
    assert capsys.readouterr().out.startswith("mona-peft compare image-classification --preset")
    with pytest.raises(ValueError, match=r"nothing.*svhn"):
        command.main(["run", "vtab-vit", "--only", "nothing", "--output_dir", str(out)])
