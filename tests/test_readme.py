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
RUN = "outputs/mine"
HUB_MODEL = "microsoft/swin-tiny-patch4-window7-224"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python_snippets_run_in_their_order(swin_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mona_peft.blocks.lookup.KNOWN_BLOCKS", KNOWN_BLOCKS | {})
    codes = [code.replace(HUB_MODEL, str(swin_folder)) for code in snippets("python") if RUN not in code]
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


def test_training_command_runs_and_what_it_trains_is_used(swin_folder, image_folder, tmp_path, capsys):
    (command,) = [code for code in snippets("bash") if f"--output_dir {RUN}" in code]
    places = {
        "path/to/images": image_folder,
        RUN: tmp_path / "out",
        HUB_MODEL: swin_folder,
    }
    for written, place in places.items():
        assert written in command
        command = command.replace(written, str(place))
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert program == "mona-peft"
    run = [sys.executable, "-m", "mona_peft", *arguments, "--max_steps", "1", "--use_cpu"]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    (code,) = [code for code in snippets("python") if RUN in code]
    image = next(image_folder.rglob("*.png"))
    exec(code.replace(RUN, str(tmp_path / "out")).replace("path/to/image.jpg", str(image)), {})
    assert "'label': 'green'" in capsys.readouterr().out


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
