"""Pushing to the hub and loading from it, by a real client in a process of its own and a stand-in for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.hub_server import USER, Hub, hub_server
from tests.native_adapters import HAS_NATIVE_ADAPTERS

REPOSITORIES = ["pushed", "written", "uploaded", *(["native"] if HAS_NATIVE_ADAPTERS else []), "two", "trained"]

CLIENT = """
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from mona_peft import MonaConfig
from tests.models import build, images
from tests.native_adapters import HAS_NATIVE_ADAPTERS
from tests.test_several_adapters import logits, two_adapters

torch.set_num_threads(1)
build("swin-classifier").push_to_hub("base")

def base():
    return AutoModelForImageClassification.from_pretrained("USER/base")

def adapted():
    model = get_peft_model(base(), MonaConfig(init_weights=False, modules_to_save="task-head"))
    with torch.no_grad():
        model.get_base_model().classifier.weight.add_(0.1)
    return model.eval()

def check(repo, expected, **kwargs):
    found = logits(PeftModel.from_pretrained(base(), repo, **kwargs).eval(), images())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

model = adapted()
expected = logits(model, images())
assert (expected - logits(base(), images())).abs().max() > 1e-2

model.push_to_hub("pushed")
check("USER/pushed", expected)
assert isinstance(PeftConfig.from_pretrained("USER/pushed"), MonaConfig)
straight = AutoModelForImageClassification.from_pretrained("USER/pushed").eval()
torch.testing.assert_close(logits(straight, images()), expected, atol=1e-6, rtol=0)
native = base()
native.load_adapter("USER/pushed")
torch.testing.assert_close(logits(native.eval(), images()), expected, atol=1e-6, rtol=0)

by_hand = b"---\\nlicense: mit\\n---\\n# Mine\\n\\nWritten by hand.\\n"
HfApi().create_repo("written")
HfApi().upload_file(path_or_fileobj=by_hand, path_in_repo="README.md", repo_id="USER/written")
model.push_to_hub("written", tags=["flowers"])
check("USER/written", expected)

model.save_pretrained("folder", push_to_hub=False)
HfApi().create_repo("uploaded")
HfApi().upload_folder(repo_id="USER/uploaded", folder_path="folder")
check("USER/uploaded", expected)

if HAS_NATIVE_ADAPTERS:
    native.push_to_hub("native")
    check("USER/native", expected)

two = two_adapters("swin-classifier")
two.push_to_hub("two")
two.set_adapter("narrow")
check("USER/two", logits(two, images()), subfolder="narrow")

rows = [{"pixel_values": images(4)[row].tolist(), "labels": row} for row in range(4)]
arguments = TrainingArguments("trained", push_to_hub=True, max_steps=2, use_cpu=True, report_to="none",
                              learning_rate=0.0123, per_device_train_batch_size=2)
trainer = Trainer(adapted(), arguments, train_dataset=Dataset.from_list(rows))
trainer.train()
trainer.push_to_hub()
check("USER/trained", logits(trainer.model.eval(), images()))

damaged = bytearray(open("folder/adapter_model.safetensors", "rb").read())
damaged[-1] ^= 1
HfApi().upload_file(path_or_fileobj=bytes(damaged), path_in_repo="adapter_model.safetensors", repo_id="USER/uploaded")
untouched = base()
for repo, message in [("USER/uploaded", "is damaged"), ("USER/pickled", "has no adapter_model.safetensors")]:
    if repo == "USER/pickled":
        HfApi().create_repo(repo)
        HfApi().upload_folder(repo_id=repo, folder_path="folder", ignore_patterns="*.safetensors")
    try:
        PeftModel.from_pretrained(untouched, repo)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(repo)
    assert not any("mona" in name for name, _ in untouched.named_modules())
print("all equal")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Hub:
    """The stand-in after a client has pushed in every way and loaded everything again."""
    with hub_server() as (hub, endpoint):
        printed = run_client(endpoint, tmp_path_factory.mktemp("client"), "-c", CLIENT.replace("USER", USER))
        assert printed.strip().endswith("all equal")
    return hub


def run_client(endpoint: str, folder: Path, *arguments: str) -> str:
    """Run Python in a process that takes the stand-in for the hub; returns what it prints."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_token",
        "HF_HOME": str(folder / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    result = subprocess.run([sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def card(hub: Hub, repo: str, folder: str = "") -> tuple[dict, str]:
    _, front_matter, text = hub.repos[f"{USER}/{repo}"][f"{folder}README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front_matter), text


@pytest.mark.parametrize("repo", REPOSITORIES)
def test_card_survives_every_way_of_pushing(hub, repo):
    data, text = card(hub, repo)
    assert data["library_name"] == "peft"
    assert "mona" in data["tags"]
    assert f"base_model:adapter:{USER}/base" in data["tags"] or repo == "two"
    assert data.get("base_model") == (f"{USER}/base" if repo != "two" else None)
    assert "import mona_peft" in text
    assert text.index("import mona_peft") < text.index("PeftModel.from_pretrained(")
    assert '"bottleneck_dim":' in text
    assert "mona-peft 0." in text
    assert "[More Information Needed]" not in text


def test_card_tells_a_stranger_how_to_load(hub):
    """The code in the card is complete: base model, its class, its number of labels, the adapter's name."""
    _, text = card(hub, "pushed")
    assert (
        f"SwinForImageClassification.from_pretrained('{USER}/base', num_labels=5, ignore_mismatched_sizes=True)" in text
    )
    assert f"PeftModel.from_pretrained(base, '{USER}/pushed')" in text
    assert text.startswith("\n# Mona adapter for base") or text.startswith("# Mona adapter for base")


def test_what_was_written_by_hand_is_kept(hub):
    data, text = card(hub, "written")
    assert (data["license"], "flowers" in data["tags"]) == ("mit", True)
    assert "# Mine\n\nWritten by hand." in text


def test_trainers_account_of_the_training_is_kept(hub):
    _, text = card(hub, "trained")
    assert "learning_rate: 0.0123" in text


def test_each_of_several_adapters_has_its_card(hub):
    for folder, bottleneck_dim in (("wide/", 64), ("narrow/", 8)):
        data, text = card(hub, "two", folder)
        assert "mona" in data["tags"]
        assert f'"bottleneck_dim": {bottleneck_dim}' in text
    assert "subfolder='narrow'" in card(hub, "two")[1]


def test_only_the_adapter_is_pushed(hub):
    assert sorted(hub.repos[f"{USER}/pushed"]) == [
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads(hub.repos[f"{USER}/pushed"]["adapter_config.json"])
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("MONA", f"{USER}/base")


@pytest.mark.parametrize("saved", [[], ["--save_strategy", "no"]], ids=["checkpoints too", "no checkpoint"])
def test_a_training_script_pushes_what_it_saves_at_the_end(swin_folder, image_folder, tmp_path, saved):
    run = tmp_path / "run"
    arguments = ["--model_name_or_path", str(swin_folder), "--dataset", str(image_folder), "--output_dir", str(run)]
    arguments += ["--use_cpu", "--disable_tqdm", "true", "--bottleneck_dim", "4", "--max_steps", "2", "--push_to_hub"]
    with hub_server() as (hub, endpoint):
        run_client(endpoint, tmp_path, "-m", "scripts.train_image_classification", *arguments, *saved)
    pushed = hub.repos[f"{USER}/run"]
    for file in (run / "adapter").iterdir():
        assert pushed[file.name] == file.read_bytes(), file.name
