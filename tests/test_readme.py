"""What the README says runs, and shows what was measured."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from mona_peft.blocks import KNOWN_BLOCKS
from scripts import demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HUB_MODEL = "microsoft/swin-tiny-patch4-window7-224"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python_snippets_run_in_their_order(swin_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mona_peft.blocks.families.KNOWN_BLOCKS", KNOWN_BLOCKS | {})
    codes = [code.replace(HUB_MODEL, str(swin_folder)) for code in snippets("python")]
    assert len(codes) >= 4
    names: dict = {}
    for number, code in enumerate(codes):
        exec(compile(code, f"README.md, Python snippet {number + 1}", "exec"), names)
        if "save_pretrained" in code:
            pixel_values = torch.randn(2, 3, 32, 32)
            with torch.no_grad():
                trained = names["model"].eval()(pixel_values).logits
    with torch.no_grad():
        reloaded = names["model"].eval()(pixel_values).logits
    assert torch.equal(reloaded, trained)


def test_training_command_runs(swin_folder, image_folder, tmp_path):
    (command,) = [code for code in snippets("bash") if "scripts.train_image_classification" in code]
    places = {
        "path/to/images": image_folder,
        "outputs/mine": tmp_path / "out",
        HUB_MODEL: swin_folder,
    }
    for written, place in places.items():
        assert written in command
        command = command.replace(written, str(place))
    python, *arguments = shlex.split(command.replace("\\\n", " "))
    assert python == "python"
    run = [sys.executable, *arguments, "--max_steps", "1", "--use_cpu"]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([\w-]+)", README))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", README)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 3
    assert not [link for link in local if not (ROOT / link).exists()]


def test_demonstration_table_is_the_record_of_a_run():
    records = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    assert demo.results_table(records) in README
