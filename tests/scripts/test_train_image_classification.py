"""The classification script: run as a user runs it, resumed, and given what it can't use."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
    Trainer,
    TrainingArguments,
    ViTImageProcessorPil,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.training.trainer import WholeModelTrainer
from scripts.train_image_classification import main, parse
from tests.script_runs import ACCELERATE, equal_weights, interrupt, run_python, saved_folder, weights


@pytest.fixture
def arguments(swin_folder, image_folder, tmp_path) -> list[str]:
    """A run of nine steps on the CPU with a narrow Mona."""
    return [
        *("--model_name_or_path", str(swin_folder), "--dataset", str(image_folder)),
        *("--output_dir", str(tmp_path / "run"), "--use_cpu", "--disable_tqdm", "true"),
        *(
            "--bottleneck_dim",
            "4",
            "--dropout",
            "0.5",
            "--num_train_epochs",
            "3",
            "--per_device_train_batch_size",
            "12",
        ),
        *("--learning_rate", "1e-2", "--validation_fraction", "0.25"),
    ]


def test_run_as_a_user_runs_it_and_load_by_the_card(arguments, tmp_path, image_folder):
    output = run_python(
        *ACCELERATE, "mona_peft", "train", "image-classification", *arguments, "--report_to", "tensorboard"
    )
    run = tmp_path / "run"
    record = json.loads((run / "metrics.json").read_text())
    assert record["results"]["validation"]["top1"] > 0.8  # colours are easy
    assert '"top1"' in output
    assert record["classes"] == ["blue", "green", "red"]
    assert record["num_images"] == {"train": 27, "validation": 9}
    assert record["adapter_bytes"] == (run / "adapter" / "adapter_model.safetensors").stat().st_size
    with PILImage.open(run / "curves.png") as curves:
        assert curves.width > 500
    assert list(run.glob("**/events.out.tfevents.*"))
    # Nothing half written, nothing pickled among what is handed on.
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert {path.suffix for path in (run / "adapter").iterdir()} == {".json", ".md", ".safetensors"}

    card = ModelCard.load(run / "adapter" / "README.md")
    assert "mona" in card.data.tags
    assert card.data.eval_results[0].metric_value == record["results"]["validation"]["top1"]
    code, *_ = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    check = f"""
import torch
from mona_peft.tasks.data.dataset import ImageClassificationDataset
from mona_peft.tasks.data.classification import DataArguments, load_image_classification
from transformers.models.auto.image_processing_auto import AutoImageProcessor
arguments = DataArguments(dataset={str(image_folder)!r}, validation_fraction=0.25)
rows = load_image_classification(arguments, 42)["validation"]
images = ImageClassificationDataset(rows, AutoImageProcessor.from_pretrained({str(run / "adapter")!r}))
with torch.no_grad():
    logits = model.eval()(torch.stack([image["pixel_values"] for image in images])).logits
labels = torch.tensor(rows["label"][:])
print(model.config.id2label, torch.nn.functional.cross_entropy(logits, labels).item())
"""
    printed = run_python("-c", code + check)
    assert printed.startswith("{0: 'blue', 1: 'green', 2: 'red'}")
    assert float(printed.split()[-1]) == pytest.approx(record["results"]["validation"]["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mona", ["--save_strategy", "steps", "--save_steps", "2"]),  # within an epoch
        ("mona", []),  # between epochs
        ("fixed", ["--save_strategy", "steps", "--save_steps", "2"]),
        ("full", ["--save_strategy", "steps", "--save_steps", "2"]),
        ("bitfit", ["--save_strategy", "steps", "--save_steps", "2"]),
        *(
            pytest.param(method, ["--save_strategy", "steps", "--save_steps", "2"], marks=pytest.mark.slow)
            for method in ("norm-tuning", "partial-1", "adapter", "lora", "adaptformer", "lorand", "colin")
        ),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(arguments, tmp_path, monkeypatch, method, options):
    arguments = [*arguments, "--method", method, *options]
    main([*arguments, "--output_dir", str(tmp_path / "straight")])
    with monkeypatch.context() as patch:
        interrupt(patch, steps=5)
        with pytest.raises(SystemExit, match="--resume_from_checkpoint last"):
            main(arguments)
    main([*arguments, "--resume_from_checkpoint", "last"])
    assert equal_weights(tmp_path / "run" / saved_folder(method), tmp_path / "straight" / saved_folder(method))
    straight, resumed = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "run"))
    assert resumed["results"] == straight["results"]


BEST_IS_NOT_LAST = [
    # A rate that grows until it destroys what was learnt.
    *("--learning_rate", "300", "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "80"),
    *("--save_total_limit", "5"),
    *("--load_best_model_at_end", "--metric_for_best_model", "loss"),
]


def best_checkpoint(run: Path) -> Path:
    history = json.loads((run / "metrics.json").read_text())["history"]
    best = int(np.argmin([entry["eval_loss"] for entry in history if "eval_loss" in entry]))
    assert best < 2
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert not equal_weights(checkpoints[0], checkpoints[1])
    return checkpoints[best]


@pytest.mark.parametrize("method", ["mona", "full"])
def test_training_restores_the_best_checkpoint(arguments, tmp_path, method):
    main([*arguments, "--method", method, *BEST_IS_NOT_LAST])
    run = tmp_path / "run"
    assert equal_weights(run / saved_folder(method), best_checkpoint(run))
    recorded = json.loads((run / "metrics.json").read_text())["training"]
    assert (recorded["metric_for_best_model"], recorded["greater_is_better"]) == ("loss", False)


def test_trainer_itself_restores_a_part_of_a_whole_model(arguments, tmp_path, monkeypatch):
    """Why there is a `WholeModelTrainer`; once transformers mends it, this fails and the class can go."""
    monkeypatch.setattr(WholeModelTrainer, "_load_best_model", Trainer._load_best_model)
    main([*arguments, "--method", "full", *BEST_IS_NOT_LAST])
    run = tmp_path / "run"
    restored, best = weights(run / "model"), weights(best_checkpoint(run))
    right = {name for name in best if torch.equal(restored[name], best[name])}
    assert "classifier.weight" in right
    assert {"swin.encoder.layers.0.blocks.0.attention.self.query.weight"} <= best.keys() - right


def test_whole_model_loads_by_its_card(arguments, tmp_path, swin_folder):
    main([*arguments, "--method", "full", "--max_steps", "2"])
    folder = tmp_path / "run" / "model"
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    assert f"{record['parameters']['base']:,} parameters were trained" in card.text
    assert "These files hold the whole model." in card.text
    code, *_ = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    loaded: dict = {}
    exec(code, loaded)
    saved = weights(folder)
    assert loaded["model"].num_parameters() == record["parameters"]["trainable"] == record["parameters"]["base"]
    assert torch.equal(loaded["model"].classifier.weight, saved["classifier.weight"])
    name = "swin.encoder.layers.0.blocks.0.attention.self.query.weight"
    assert not torch.equal(saved[name], weights(swin_folder)[name])
    assert record["adapter_bytes"] == (folder / "model.safetensors").stat().st_size
    assert AutoImageProcessor.from_pretrained(folder).size["height"] == 32


def test_fixed_saves_the_head_alone(arguments, tmp_path):
    main([*arguments, "--method", "fixed", "--max_steps", "1"])
    assert {name.split(".")[-2] for name in weights(tmp_path / "run" / "adapter")} == {"classifier"}


def test_loss_does_not_depend_on_accumulation(arguments, tmp_path, swin_folder):
    """SwinV2's takes the number of labels that `Trainer` counts, and does not divide by it."""
    config = Swinv2Config(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, drop_path_rate=0.0
    )
    Swinv2ForImageClassification(config).save_pretrained(tmp_path / "swinv2")
    AutoImageProcessor.from_pretrained(swin_folder).save_pretrained(tmp_path / "swinv2")
    first = []
    for size, accumulated in ((12, 1), (4, 3)):
        run = tmp_path / f"run-{accumulated}"
        options = ["--model_name_or_path", str(tmp_path / "swinv2"), "--output_dir", str(run), "--dropout", "0.0"]
        options += ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(accumulated)]
        main([*arguments, *options, "--max_steps", "1", "--logging_steps", "1"])
        first.append(json.loads((run / "metrics.json").read_text())["history"][0])
    assert first[1]["loss"] == pytest.approx(first[0]["loss"], rel=1e-4)
    assert first[1]["grad_norm"] == pytest.approx(first[0]["grad_norm"], rel=1e-3)


def test_several_gpus_need_a_process_each(arguments, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"One process and 2 GPUs: .*torchrun --nproc_per_node 2"):
        main(arguments)


def test_a_run_is_never_overwritten(arguments, tmp_path):
    main([*arguments, "--max_steps", "1"])
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match=r"already holds adapter, .*--resume_from_checkpoint last.*another directory"):
        main([*arguments, "--max_steps", "1"])
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def assert_other_weights_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match=r"holds other weights than this run trains.*that the run was started with"):
        main([*arguments, "--resume_from_checkpoint", "last"])


@pytest.mark.parametrize(
    "options", [["--method", "fixed"], ["--method", "full"], ["--bottleneck_dim", "8"], ["--sites", "mlp"]]
)
def test_resuming_with_another_adapter_is_refused(arguments, options):
    main([*arguments, "--max_steps", "1"])
    assert_other_weights_are_refused([*arguments, *options])


def test_resuming_another_whole_model_is_refused(arguments, tmp_path):
    arguments = [*arguments, "--method", "full", "--max_steps", "1"]
    main(arguments)
    config = SwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
    SwinForImageClassification(config).save_pretrained(tmp_path / "wider")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "wider")
    assert_other_weights_are_refused([*arguments, "--model_name_or_path", str(tmp_path / "wider")])
    assert_other_weights_are_refused([*arguments, "--method", "mona"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "no/such-dataset"], "--dataset no/such-dataset: neither a folder here nor a dataset"),
        (
            ["--model_name_or_path", "no/such-model"],
            "--model no/such-model: neither a folder with a model",
        ),
        (["--label_column", "species"], "--label_column species: .* the folders are the classes"),
        (["--image_column", "label"], "--image_column label: .* the folders are the classes"),
        (["--validation_split", "val"], "--validation_split val: .* It has: train"),
        (["--validation_fraction", "1.5"], "--validation_fraction 1.5: must lie between 0 and 1"),
        (["--resume_from_checkpoint", "last"], "there is no complete checkpoint"),
        (["--resume_from_checkpoint", "elsewhere"], "--resume_from_checkpoint elsewhere: not a complete checkpoint"),
        (
            ["--preset", "fast"],
            "--preset fast: neither a file nor the name of a preset. Presets are: .*paper_classification",
        ),
        (["--kernel_sizes", "4"], "kernel_sizes"),
    ],
)
def test_wrong_argument_is_named(arguments, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main([*arguments, *options])
    assert not (tmp_path / "run").exists()


def test_unknown_method_names_the_methods(arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--method", "magic"])
    error = capsys.readouterr().err
    assert "invalid choice: 'magic'" in error
    assert all(name in error for name in METHODS)


def test_training_in_bfloat16_saves_full_precision(arguments, tmp_path):
    main([*arguments, "--max_steps", "2", "--bf16"])
    assert {tensor.dtype for tensor in weights(tmp_path / "run" / "adapter").values()} == {torch.float32}


def test_paper_preset_is_the_papers_schedule():
    model_args, data_args, method_args, args = parse(["--preset", "paper_classification", "--use_cpu"])
    assert model_args.model_name_or_path == "microsoft/swin-large-patch4-window7-224-in22k"
    assert (method_args.method, method_args.bottleneck_dim, method_args.init_weights) == ("mona", 64, "paper")
    assert (args.optim, args.learning_rate, args.weight_decay, args.max_grad_norm) == (
        "adamw_torch",
        1.5625e-5,
        0.05,
        5,
    )
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.lr_scheduler_type) == (16, 100, "cosine")
    assert args.get_warmup_steps(100 * 64) == 20 * 64
    assert data_args.augmentation == "light"
    # What stands on the command line wins, wherever it stands.
    *_, args = parse(["--learning_rate", "3.125e-5", "--preset", "paper_classification", "--use_cpu"])
    assert (args.learning_rate, args.weight_decay) == (3.125e-5, 0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: monna", "sets method: monna. It takes full, fixed, "),
        (
            "sites: [attention, end]\naugmentation: flip",
            "sets augmentation: flip. It takes none, light",
        ),
        ("", "is no preset: lines of `argument: value`"),
        ("preset: comparison", "sets preset: this script has no such arguments"),
    ],
)
def test_preset_with_a_value_that_is_not_taken_names_those_that_are(tmp_path, text, message):
    preset = tmp_path / "mine.yaml"
    preset.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        main(["--preset", str(preset)])


def test_preset_with_an_unknown_argument_names_it(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("learning_rat: 0.1 # a typing error\nweight_decay: 0.1\n")
    with pytest.raises(ValueError, match=r"mine.yaml sets learning_rat: this script has no such"):
        main(["--preset", str(preset)])
