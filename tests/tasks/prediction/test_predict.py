"""The command `predict`, as a user types it, on runs of tiny models; stopped, on two processes, refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as mask_api
from PIL import Image

import mona_peft
from mona_peft.cli import run as cli
from mona_peft.tasks.prediction import output
from mona_peft.tasks.prediction import run as prediction_run
from mona_peft.tasks.prediction.predictors import PREDICTORS
from tests.folders import write_coco
from tests.script_runs import TORCHRUN, run_command, run_installed
from tests.trained_runs import KINDS, LABELS, write_run


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number, (name, size) in enumerate({"a.png": (90, 70), "b.png": (60, 100), "more/a.png": (150, 120)}.items()):
        noise(*size, seed=number).save(folder / name)
    return folder


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def expected(run: Path, image: Image.Image):
    """What transformers' own post-processing makes of the model's output."""
    trained = mona_peft.load(run)
    processor = trained.image_processor
    with torch.no_grad():
        outputs = trained.model(processor(image, return_tensors="pt")["pixel_values"])
    sizes = [image.size[::-1]]
    if trained.task.command == "image-classification":
        return outputs.logits[0].softmax(-1).numpy()
    if trained.task.command == "semantic-segmentation":
        short = image.resize([round(side * 64 / min(image.size)) for side in image.size], Image.Resampling.BILINEAR)
        with torch.no_grad():
            outputs = trained.model(processor(short, do_resize=False, return_tensors="pt")["pixel_values"])
        return processor.post_process_semantic_segmentation(outputs, sizes)[0].numpy()
    if trained.task.command == "object-detection":
        return processor.post_process_object_detection(outputs, 0.3, sizes)[0]
    return processor.post_process_instance_segmentation(outputs, 0.65, target_sizes=sizes, return_binary_maps=True)[0]


def check(task: str, line: dict, folder: Path, truth) -> None:
    image = opened(line["image"])
    if task == "image-classification":
        assert list(line["scores"].values()) == pytest.approx(truth.tolist(), abs=1e-5)
        assert (line["label"], line["score"]) == (LABELS[truth.argmax()], max(line["scores"].values()))
    elif task == "semantic-segmentation":
        mask = opened(folder / line["mask"])
        np.testing.assert_array_equal(np.asarray(mask), truth)
        assert mask.mode == "P"
        shares = {"background": (truth == 0).mean(), "green": (truth == 1).mean(), "red": (truth == 2).mean()}
        assert line["classes"] == pytest.approx({name: share for name, share in shares.items() if share}, abs=1e-5)
    elif task == "object-detection":
        assert [entry["score"] for entry in line["boxes"]] == pytest.approx(truth["scores"].tolist(), abs=1e-5)
        left, top, right, bottom = truth["boxes"].T.numpy()
        boxes = np.stack([left, top, right - left, bottom - top], 1)
        np.testing.assert_allclose([entry["box"] for entry in line["boxes"]], boxes, atol=0.01)
        assert [entry["label"] for entry in line["boxes"]] == [LABELS[label] for label in truth["labels"]]
    else:
        found = sorted(
            zip(truth["segments_info"], truth["segmentation"], strict=True), key=lambda pair: -pair[0]["score"]
        )
        assert [entry["label"] for entry in line["segments"]] == [LABELS[info["label_id"]] for info, _ in found]
        for entry, (info, mask) in zip(line["segments"], found, strict=True):
            assert entry["score"] == pytest.approx(info["score"], abs=1e-5)
            np.testing.assert_array_equal(mask_api.decode(entry["segmentation"]), mask.numpy())
            rows, columns = np.nonzero(mask.numpy())
            box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
            assert entry["box"] == box
    if task != "image-classification":
        assert (line["width"], line["height"]) == image.size


THRESHOLDS = {"object-detection": ["--threshold", "0.3"], "instance-segmentation": ["--threshold", "0.65"]}


@pytest.mark.parametrize("task", list(KINDS))
def test_predict_as_a_user_types_it(runs, photos, tmp_path, task):
    """Every image gets the line that transformers' post-processing gives it, and its pictures."""
    out = tmp_path / "out"
    command = ["predict", str(runs[task]), str(photos), "--output_dir", str(out), "--use_cpu"]
    run_installed(*command, *THRESHOLDS.get(task, []))
    lines = lines_of(out)
    assert [line["image"] for line in lines] == [str(photos / name) for name in ("a.png", "b.png", "more/a.png")]
    for line in lines:
        check(task, line, out, expected(runs[task], opened(line["image"])))
    pictures = {str(path.relative_to(out)) for path in (out / "pictures").rglob("*.jpg")}
    assert pictures == {"pictures/a.jpg", "pictures/b.jpg", "pictures/more/a.jpg"}
    with Image.open(out / "pictures" / "more" / "a.jpg") as picture:
        assert np.asarray(picture).std() > 10
    assert sum(bool(line.get("boxes", line.get("segments", True))) for line in lines) == 3


def test_two_processes_write_what_one_writes(runs, photos, tmp_path):
    command = ["predict", str(runs["instance-segmentation"]), str(photos), "--batch_size", "1", "--threshold", "0.65"]
    command += ["--use_cpu"] if torch.accelerator.is_available() else []  # without a GPU nobody has to say so
    command += ["--num_workers", "0", "--output_dir"]
    (photos / "broken.jpg").write_text("no image")
    try:
        result = run_command(*TORCHRUN, "mona_peft", *command, str(tmp_path / "two"))
        assert result.returncode != 0
        assert "1 of 4 images can't be read" in result.stderr
        assert cli([*command, str(tmp_path / "one")]) == 1
    finally:
        (photos / "broken.jpg").unlink()
    assert lines_of(tmp_path / "two") == lines_of(tmp_path / "one")
    assert len(list((tmp_path / "two" / "pictures").rglob("*.jpg"))) == 3


def test_goes_on_where_it_was_stopped(runs, photos, tmp_path, monkeypatch, capsys):
    command = ["predict", str(runs["image-classification"]), str(photos), "--batch_size", "1", "--output_dir"]
    assert cli([*command, str(tmp_path / "straight")]) == 0
    seen, predict = [], prediction_run.predict_images.__globals__["_results"]

    def stops(predictor, images, batch_size):
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return predict(predictor, images, batch_size)

    out = tmp_path / "out"
    monkeypatch.setattr(prediction_run, "_results", stops)
    assert cli([*command, str(out)]) == 130
    assert "same command goes on" in capsys.readouterr().err
    assert lines_of(out) == lines_of(tmp_path / "straight")[:2]
    with open(out / "predictions.jsonl", "a") as file:  # killed within a line
        file.write('{"image": "half of a li')
    assert cli([*command, str(out)]) == 0
    assert seen == [1] * 4  # three images, the third of them twice
    assert lines_of(out) == lines_of(tmp_path / "straight")
    # Once more, there is nothing to do; and made otherwise, the directory is another one's.
    assert cli([*command, str(out)]) == 0
    assert len(seen) == 4
    other = ["predict", str(runs["object-detection"]), str(photos), "--output_dir", str(out)]
    assert cli(other) == 2
    assert "made otherwise: run was" in capsys.readouterr().err
    assert lines_of(out) == lines_of(tmp_path / "straight")


def test_lines_are_written_whole(tmp_path):
    """A file that can't be written to leaves the lines before whole."""
    file = output.PredictionFile(tmp_path, {"threshold": 0.5})
    file.append([{"image": "é.png"}])
    assert output.PredictionFile(tmp_path, {"threshold": 0.5}).lines == [{"image": "é.png"}]
    with pytest.raises(ValueError, match=r"threshold was 0\.5 and is 0\.3"):
        output.PredictionFile(tmp_path, {"threshold": 0.3})
    (tmp_path / "prediction.json").unlink()
    with pytest.raises(ValueError, match="has not begun"):
        output.PredictionFile(tmp_path, {"threshold": 0.5})


def test_images_are_turned_as_their_exif_data_says(runs, tmp_path):
    upright = noise(150, 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a right angle, clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    out = tmp_path / "out"
    files = [str(tmp_path / name) for name in ("turned.png", "upright.png")]
    assert cli(["predict", str(runs["object-detection"]), *files, "--threshold", "0.2", "--output_dir", str(out)]) == 0
    turned, straight = lines_of(out)
    assert turned.pop("image") != straight.pop("image")
    assert turned == straight
    assert (turned["width"], turned["height"]) == (150, 80)


def test_broken_images_are_named_counted_and_left_out(runs, photos, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    noise(60, 60).save(tmp_path / "in" / "whole.jpg")
    content = (tmp_path / "in" / "whole.jpg").read_bytes()
    (tmp_path / "in" / "half.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "in" / "empty.png").touch()
    command = [
        "predict",
        str(runs["image-classification"]),
        str(tmp_path / "in"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert cli([*command, "--no_pictures"]) == 1
    says = capsys.readouterr().err
    assert "2 of 3 images can't be read" in says
    assert "half.jpg" in says
    assert "empty.png" in says
    assert [Path(line["image"]).name for line in lines_of(tmp_path / "out")] == ["whole.jpg"]
    assert not (tmp_path / "out" / "pictures").exists()
    for name in ("half.jpg", "empty.png"):
        (tmp_path / "in" / name).write_bytes(content)
    assert cli([*command, "--no_pictures"]) == 0
    assert len(lines_of(tmp_path / "out")) == 3


def test_images_with_several_classes(tmp_path, photos):
    run = write_run(tmp_path, "image-classification", problem_type="multi_label_classification")
    trained = mona_peft.load(run)
    with torch.no_grad():
        inputs = trained.image_processor(opened(photos / "a.png"), return_tensors="pt")
        scores = trained.model(**inputs).logits[0].sigmoid().tolist()
    threshold = sorted(scores)[1]  # of three, two are at least as high
    command = ["predict", str(run), str(photos / "a.png"), "--output_dir", str(tmp_path / "out")]
    assert cli([*command, "--threshold", f"{threshold - 1e-4:.6f}"]) == 0
    (line,) = lines_of(tmp_path / "out")
    assert list(line["scores"].values()) == pytest.approx(scores, abs=1e-5)
    assert line["labels"] == [label for label, score in zip(LABELS, scores, strict=True) if score >= threshold]


@pytest.mark.parametrize("task", ["object-detection", "instance-segmentation"])
def test_coco_results_have_the_numbers_of_the_annotations(runs, tmp_path, task):
    from faster_coco_eval import COCO

    write_coco(tmp_path / "data", val=3)
    annotations = tmp_path / "data" / "annotations" / "instances_val2017.json"
    content = json.loads(annotations.read_text())
    content["categories"] = [{"id": 5 * number + 2, "name": label} for number, label in enumerate(LABELS)]
    annotations.write_text(json.dumps(content | {"annotations": []}))
    command = ["predict", str(runs[task]), str(tmp_path / "data" / "val2017"), "--output_dir", str(tmp_path / "out")]
    command += [*THRESHOLDS[task], "--format", "coco"]
    assert cli([*command, "--coco_annotations", str(annotations)]) == 0
    results = COCO(str(annotations)).loadRes(str(tmp_path / "out" / "coco_results.json"))
    lines = {Path(line["image"]).stem: line for line in lines_of(tmp_path / "out")}
    assert len(lines) == 3
    for stem, line in lines.items():
        entries = line["boxes" if task == "object-detection" else "segments"]
        found = results.loadAnns(results.getAnnIds(imgIds=[10 * int(stem)]))  # the number of the image in the file
        assert [entry["score"] for entry in found] == [entry["score"] for entry in entries]
        assert [entry["category_id"] for entry in found] == [5 * LABELS.index(e["label"]) + 2 for e in entries]
        for entry, ours in zip(found, entries, strict=True):
            assert entry["bbox"] == pytest.approx(ours["box"], abs=1)
            if task == "instance-segmentation":
                assert mask_api.area(entry["segmentation"]) == mask_api.area(ours["segmentation"])


def test_threshold_and_the_path_of_evaluation(runs, photos, tmp_path):
    """Scores below the threshold are left out, and no others."""
    found = {}
    for threshold in ("0.2", "0.75"):
        out = tmp_path / threshold
        command = ["predict", str(runs["object-detection"]), str(photos), "--output_dir", str(out), "--no_pictures"]
        assert cli([*command, "--threshold", threshold]) == 0
        found[threshold] = [box for line in lines_of(out) for box in line["boxes"]]
    assert found["0.75"] == [box for box in found["0.2"] if box["score"] >= 0.75]
    assert 0 < len(found["0.75"]) < len(found["0.2"])


def test_windows_find_what_is_small(runs, tmp_path):
    """In an image of four equal windows without overlap, each window shows what a whole image of its size shows."""
    noise(64, 64).save(tmp_path / "one.png")
    large = Image.new("RGB", (128, 128))
    for place in ((0, 0), (64, 0), (0, 64), (64, 64)):
        large.paste(noise(64, 64), place)
    large.save(tmp_path / "four.png")
    command = ["predict", str(runs["semantic-segmentation"]), str(tmp_path / "one.png"), str(tmp_path / "four.png")]
    out = tmp_path / "out"
    assert cli([*command, "--tile_size", "64", "--tile_overlap", "0", "--output_dir", str(out)]) == 0
    one, four = (np.asarray(opened(out / "masks" / f"{name}.png")) for name in ("one", "four"))
    np.testing.assert_array_equal(four, np.tile(one, (2, 2)))
    assert len(np.unique(one)) > 1


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("image-classification", ["--threshold", "0.5"], "--threshold 0.5: every image gets"),
        ("image-classification", ["--tile_size", "64"], "--tile_size: image classification looks at whole images"),
        ("image-classification", ["--format", "coco"], "for boxes and masks of objects"),
        ("semantic-segmentation", ["--threshold", "0.5"], "every pixel gets"),
        ("object-detection", ["--threshold", "2"], "--threshold 2.0: must be 0 to 1"),
        ("object-detection", ["--coco_annotations", "a.json"], "goes with --format coco"),
        ("object-detection", ["--batch_size", "0"], "--batch_size 0"),
        ("object-detection", ["nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_what_can_not_be_done_is_said(runs, photos, tmp_path, capsys, task, arguments, says):
    command = ["predict", str(runs[task]), str(photos), *arguments, "--output_dir", str(tmp_path / "out")]
    assert cli(command) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workers_read_images_without_the_model(runs):
    """What prepares images goes to other processes, which models around a backbone can't."""
    import pickle

    for task, run in runs.items():
        trained = mona_peft.load(run)
        predictor = PREDICTORS[task](trained.model, trained.image_processor, trained.labels, trained.settings)
        assert len(pickle.dumps(predictor.prepare)) < 20_000
