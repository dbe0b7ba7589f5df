"""What goes wrong while adapters are saved and used: kills, other writers and readers, threads."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from mona_peft import MonaConfig
from mona_peft.files import saving as adapter_saving
from tests.models import build, images, largest_difference, outputs
from tests.test_save_load import WEIGHTS, trained
from tests.test_several_adapters import logits, two_adapters

CONFIG = "adapter_config.json"


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it, and nothing is cleaned up."""


def load(folder: Path) -> list[torch.Tensor]:
    return outputs(PeftModel.from_pretrained(build("swin-classifier"), folder).eval(), images())


@pytest.fixture(scope="module")
def old_and_new() -> dict[str, tuple[PeftModel, list[torch.Tensor]]]:
    """Two adapters of the same shapes whose configurations differ in what they compute."""
    old = trained("swin-classifier")
    new = trained("swin-classifier", filter_reduction="sum", dropout=0.3)
    models = {"old": (old, outputs(old, images())), "new": (new, outputs(new, images()))}
    assert largest_difference(models["old"][1], models["new"][1]) > 1e-3
    return models


def which(folder: Path, models: dict[str, tuple[PeftModel, list[torch.Tensor]]]) -> str:
    """Load the adapter in a folder and say which of the two it is; neither is an error."""
    found = load(folder)
    return next(name for name, (_, expected) in models.items() if largest_difference(found, expected) < 1e-6)


def test_killed_at_every_step_of_saving(old_and_new, tmp_path, monkeypatch):
    """After each file that is moved there is the old adapter or the new one; and the next save works."""
    found = []
    for step in range(20):
        folder = tmp_path / str(step)
        old_and_new["old"][0].save_pretrained(folder)
        with monkeypatch.context() as patch:
            moves = iter(range(step))
            move = os.replace

            def move_or_die(*paths, moves=moves, move=move):
                if next(moves, None) is None:
                    raise Killed
                move(*paths)

            patch.setattr(os, "replace", move_or_die)
            patch.setattr(adapter_saving.shutil, "rmtree", lambda *args, **kwargs: None)
            try:
                old_and_new["new"][0].save_pretrained(folder)
                finished = True
            except Killed:
                finished = False
        found.append(which(folder, old_and_new))
        assert which(folder, old_and_new) == found[-1]
        if finished:
            break
        old_and_new["old"][0].save_pretrained(folder)
        assert which(folder, old_and_new) == "old"
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    assert finished
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}


def test_killed_at_the_first_save(old_and_new, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(adapter_saving, "move_into_place", pytest.fail)
        patch.setattr(adapter_saving.shutil, "rmtree", lambda *args, **kwargs: None)
        patch.setattr(nn.Module, "state_dict", lambda *args, **kwargs: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            old_and_new["old"][0].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Can't find 'adapter_config.json'"):
        load(tmp_path)


def save_for_ever(models: list[PeftModel], folder: Path) -> None:
    torch.set_num_threads(1)
    while True:
        for model in models:
            model.save_pretrained(folder)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_by_the_system_at_any_moment(old_and_new, tmp_path, rounds):
    moments = random.Random(0)
    old_and_new["old"][0].save_pretrained(tmp_path)
    models = [old_and_new["new"][0], old_and_new["old"][0]]
    for _ in range(rounds):
        process = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(models, tmp_path))
        process.start()
        time.sleep(moments.uniform(0.05, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        which(tmp_path, old_and_new)


def save_often(model: PeftModel, folder: Path) -> None:
    torch.set_num_threads(1)
    for _ in range(5):
        model.save_pretrained(folder)


def test_several_processes_save_in_one_place(old_and_new, tmp_path):
    """As where every process of a training calls save_pretrained() without saying which is the main one."""
    model = old_and_new["new"][0]
    processes = [
        multiprocessing.get_context("fork").Process(target=save_often, args=(model, tmp_path)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert which(tmp_path, old_and_new) == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", CONFIG, WEIGHTS]


def test_threads_save_and_read_in_one_place(old_and_new, tmp_path):
    """No save is lost, and a reader always gets configuration and weights of one and the same save."""
    old_and_new["old"][0].save_pretrained(tmp_path)
    failed: list[BaseException] = []
    found: list[str] = []

    def repeat(action):
        try:
            for _ in range(8):
                action()
        except BaseException as error:
            failed.append(error)

    actions = [
        *(lambda model=model: model.save_pretrained(tmp_path) for model, _ in old_and_new.values()),
        lambda: found.append(which(tmp_path, old_and_new)),
    ]
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", CONFIG, WEIGHTS]


def test_a_save_in_the_midst_of_another(old_and_new, tmp_path, monkeypatch):
    """Between any two moves of one writer another one saves: what is left is one of both, whole."""
    monkeypatch.setattr(adapter_saving, "PATIENCE", 0.0)
    for step in range(5):
        folder = tmp_path / str(step)
        moves = iter(range(100))
        move = os.replace

        def interrupted(*paths, moves=moves, move=move, folder=folder, step=step):
            if next(moves) == step:
                old_and_new["new"][0].save_pretrained(folder)
                assert which(folder, old_and_new) == "new"
            move(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", interrupted)
            old_and_new["old"][0].save_pretrained(folder)
        assert which(folder, old_and_new) in ("old", "new")
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG, WEIGHTS]


def test_reading_writes_nothing(old_and_new, tmp_path, monkeypatch):
    """Not even the last step of a save that was killed, so that it can be read where nobody may write."""
    old_and_new["old"][0].save_pretrained(tmp_path)
    move = os.replace

    def die_at_the_last_step(source, target):
        if Path(target).name == CONFIG:
            raise Killed
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die_at_the_last_step)
        with pytest.raises(Killed):
            old_and_new["new"][0].save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert MonaConfig.from_pretrained(tmp_path).filter_reduction == "sum"
    assert which(tmp_path, old_and_new) == "new"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("mona_peft.integration.peft_model.write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained("swin").save_pretrained(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())


def test_nothing_is_saved_over_an_adapter_after_unload(tmp_path):
    model = trained("swin")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    model.unload()
    with pytest.raises(ValueError, match=r"nothing to save: the adapters \['default'\] are no longer in the model"):
        model.save_pretrained(tmp_path)
    assert load_file(tmp_path / WEIGHTS).keys() == saved.keys()


@pytest.mark.parametrize("names", [None, ["wide", "__base__", "narrow", "wide"]], ids=["active", "per-sample"])
def test_two_threads_use_one_model(names):
    model = two_adapters("swin-classifier")
    model.set_adapter("wide")
    inputs = [images(4), images(4).flip(0) * 2]
    arguments = [{}, {}] if names is None else [{"adapter_names": names}, {"adapter_names": names[::-1]}]
    expected = [logits(model, x, **kwargs) for x, kwargs in zip(inputs, arguments, strict=True)]
    assert largest_difference(expected[:1], expected[1:]) > 1e-2
    wrong: list[object] = []

    def run(number: int) -> None:
        try:
            for _ in range(15):
                found = logits(model, inputs[number], **arguments[number])
                if not torch.allclose(found, expected[number], atol=1e-6):
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not any(module._forward_pre_hooks for module in model.modules())
