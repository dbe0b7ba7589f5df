"""What goes wrong around saved adapters: kills, damaged and hostile files, threads, any configuration."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from mona_peft import MonaConfig
from mona_peft.files import saving as adapter_saving
from tests.models import build, images, largest_difference, outputs
from tests.native_adapters import HAS_NATIVE_ADAPTERS
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


def change_bytes(change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        content = bytearray((folder / WEIGHTS).read_bytes())
        change(content)
        (folder / WEIGHTS).write_bytes(content)

    return corrupt


def cut(length: int) -> Callable[[Path], None]:
    return change_bytes(lambda content: content.__delitem__(slice(length, None)))


def flip(position: int) -> Callable[[Path], None]:
    return change_bytes(lambda content: content.__setitem__(position, content[position] ^ 1))


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return corrupt


def change_config(**changes) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | changes))

    return corrupt


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


PREFIX = "base_model.model."
UP = f"{PREFIX}swin.encoder.layers.0.blocks.1.mona.mona_mlp.up_weight"

CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (cut(0), "cannot be read"),
    "header cut": (cut(100), "cannot be read"),
    "half": (cut(100_000), "cannot be read.*100000 bytes long"),
    "last byte": (cut(-1), "cannot be read"),
    "bytes added": (change_bytes(lambda content: content.extend(b"more")), "cannot be read"),
    "flip in the header's length": (flip(1), "cannot be read"),
    "flip in the header": (flip(8), "cannot be read"),
    "flip in the first number": (flip(-400_000), "is damaged: its tensors are not those that were saved"),
    "flip in the last number": (flip(-1), "is damaged: its tensors are not those that were saved"),
    "integers": (
        change_tensors(lambda tensors: tensors.update({UP: tensors[UP].long()})),
        r"another kind of numbers, such as swin.*up_weight torch.int64, here torch.float32",
    ),
    "booleans": (change_tensors(lambda tensors: tensors.update({UP: tensors[UP] > 0})), "another kind of numbers"),
    "transposed": (
        change_tensors(lambda tensors: tensors.update({UP: tensors[UP].T.contiguous()})),
        r"have another shape, such as .*\(64, 16\), here \(16, 64\)",
    ),
    "missing weight": (change_tensors(lambda tensors: tensors.pop(UP)), "1 are missing, such as swin"),
    "missing head": (
        change_tensors(lambda tensors: tensors.pop(f"{PREFIX}classifier.weight")),
        r"lacks 'base_model.model.classifier.weight', and nothing|nothing was loaded.* missing, such as classifier",
    ),
    "unknown weight": (
        change_tensors(lambda tensors: tensors.update(extra=torch.zeros(1))),
        "1 have no place in this model, such as .*extra",
    ),
    "weight of the backbone": (
        change_tensors(lambda tensors: tensors.update({f"{PREFIX}swin.layernorm.weight": torch.zeros(32)})),
        "1 have no place in this model, such as swin.layernorm.weight",
    ),
    "weight of another block": (
        change_tensors(lambda tensors: tensors.update({UP.replace("blocks.1", "blocks.7"): tensors[UP].clone()})),
        "1 have no place in this model, such as swin.encoder.layers.0.blocks.7",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "is missing"),
    "pickle with another name": (
        lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(RunsCode())),
        "cannot be read",
    ),
    "pickle": (
        lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin").write_bytes(pickle.dumps(RunsCode())),
        "holds pickled weights, adapter_model.bin, and they are not read",
    ),
    "config cut": (lambda folder: (folder / CONFIG).write_text('{"peft_type": "MO'), "Unterminated string"),
    "config with an unknown field": (
        change_config(scaling=2.0),
        r"fields that MonaConfig does not know: \['scaling'\]",
    ),
    "config with code": (change_config(__reduce__="os.system"), r"does not know: \['__reduce__'\]"),
    "config with another width": (change_config(bottleneck_dim=8), r"have another shape"),
    "config with text for a number": (change_config(bottleneck_dim="64"), "bottleneck_dim='64': give a whole number"),
    "config beyond all memory": (change_config(bottleneck_dim=10**12), "at least 1 and at most 32768"),
    "config with a filter beyond all memory": (change_config(kernel_sizes=[10**6 + 1]), "none twice, up to 255"),
    "config without filters": (change_config(kernel_sizes=None), "at least one positive odd number"),
    "config with nested sites": (
        change_config(sites=[["attention"]]),
        r"sites=\[\['attention'\]\]: give one or a list",
    ),
    "config with modules that are no names": (
        change_config(modules_to_save=[7]),
        r"modules_to_save=\[7\]: give one or",
    ),
    "config with ordinals that are none": (change_config(layers_to_transform=["a"]), r"layers_to_transform=\['a'\]"),
    "config with blocks of another model": (change_config(target_modules=["h.3"]), "matches no block"),
    "config with a broken pattern": (
        change_config(target_modules="(("),
        r"target_modules='\(\(' is no regular expression",
    ),
}


WAYS = ("from_pretrained", "trainable", "load_adapter", "over an adapter", "native", "native beside another")


def everything(model: nn.Module) -> list:
    state = [tensor.clone() for tensor in model.state_dict().values()]
    return [state, [type(module) for module in model.modules()], [p.requires_grad for p in model.parameters()]]


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    """Folder of a trained adapter; to be copied."""
    folder = tmp_path_factory.mktemp("intact")
    trained("swin-classifier").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("corruption", "way"),
    [
        (corruption, way)
        for corruption in CORRUPTIONS
        for way in (
            "from_pretrained",
            "trainable",
            "load_adapter",
            "over an adapter",
            "native",
            "native beside another",
        )
        # What is loaded over an adapter that is there takes nothing from a configuration.
        if way != "over an adapter" or not corruption.startswith("config")
        if way != "native beside another" or HAS_NATIVE_ADAPTERS
        if way != "native beside another" or corruption in ("half", "missing head", "weight of the backbone", "pickle")
    ],
)
def test_corrupted_adapter(corruption, way, intact, tmp_path, monkeypatch):
    """One clear error; the model is as it was; no code ran."""
    corrupt, message = CORRUPTIONS[corruption]
    folder = shutil.copytree(intact, tmp_path / "adapter")
    corrupt(folder)
    monkeypatch.chdir(tmp_path)
    is_first = way in ("from_pretrained", "trainable", "native", "native beside another")
    model = build("swin-classifier") if is_first else trained("swin-classifier")
    if way == "native beside another":
        model.add_adapter(MonaConfig(modules_to_save="task-head"), "first")
    before = everything(model)
    ways = {
        "from_pretrained": lambda: PeftModel.from_pretrained(model, folder),
        "trainable": lambda: PeftModel.from_pretrained(model, folder, is_trainable=True),
        "load_adapter": lambda: model.load_adapter(folder, "second"),
        "over an adapter": lambda: model.load_adapter(folder, "default"),
        "native": lambda: model.load_adapter(str(folder)),
        "native beside another": lambda: model.load_adapter(str(folder), "second"),
    }
    with pytest.raises(ValueError, match=message):
        ways[way]()
    state, types, requires_grad = everything(model)
    assert all(torch.equal(a, b) for a, b in zip(state, before[0], strict=True))
    assert (types, requires_grad) == (before[1], before[2])
    assert not (tmp_path / "ran").exists()


def test_an_enormous_width_asks_for_no_memory(intact, tmp_path):
    """The file tells the shapes, so nothing is made for a configuration that goes with other ones."""
    resource = pytest.importorskip("resource", reason="only on Unix")
    folder = shutil.copytree(intact, tmp_path / "adapter")
    change_config(bottleneck_dim=2**12)(folder)  # 67 megabytes a Mona, and there are eight; of 2**15 it is gigabytes
    model = build("swin-classifier")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="have another shape"):
        PeftModel.from_pretrained(model, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_one_flipped_bit_anywhere(tmp_path):
    """It is refused, or it changes nothing."""
    trained("swin-classifier").save_pretrained(tmp_path)
    intact, expected = (tmp_path / WEIGHTS).read_bytes(), load(tmp_path)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(position=st.integers(0, len(intact) - 1) | st.integers(0, 10_000), bit=st.integers(0, 7))
    def refused_or_harmless(position, bit):
        content = bytearray(intact)
        content[position] ^= 1 << bit
        (tmp_path / WEIGHTS).write_bytes(content)
        try:
            found = load(tmp_path)
        except ValueError:
            return
        assert largest_difference(found, expected) == 0

    refused_or_harmless()


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


configurations = st.fixed_dictionaries(
    {},
    optional={
        "bottleneck_dim": st.integers(-1, 24),
        "kernel_sizes": st.lists(st.sampled_from([1, 2, 3, 5, 7, 9, 300]), max_size=3).map(tuple),
        "dropout": st.sampled_from([0, 0.1, 0.9, 1.0, -0.5]),
        "sites": st.sampled_from(["attention", "mlp", ("attention",), ("mlp", "attention"), ("attention", "mlp"), ()]),
        "norm_position": st.sampled_from(["input", "bottleneck", "none", "output"]),
        "filter_reduction": st.sampled_from(["mean", "sum", "max"]),
        "init_weights": st.sampled_from([True, False, "paper", "zero"]),
        "target_modules": st.sampled_from([None, ["blocks.0"], ["blocks.1"], r".*layers\.1.*", ["query"], ".*", []]),
        "exclude_modules": st.sampled_from([None, ["blocks.0"], r".*layers\.0.*", [], ["nowhere"]]),
        "layers_to_transform": st.sampled_from([None, 0, 3, 4, [1, 2], [-1], []]),
        "modules_to_save": st.sampled_from([None, [], "task-head", ["classifier"], ["nothing"], ["embeddings"]]),
    },
)


def works_or_is_refused(name: str, chosen: dict, folder: Path) -> None:
    try:
        config = MonaConfig(**chosen)
        model = get_peft_model(build(name), config)
    except ValueError as error:
        if len(str(error)) < 40:
            raise
        return
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    expected = outputs(model.eval(), images(1))
    assert largest_difference(expected, outputs(build(name), images(1))) > 0
    model.save_pretrained(folder)
    reloaded = PeftModel.from_pretrained(build(name), folder).eval()
    assert largest_difference(outputs(reloaded, images(1)), expected) == 0


@pytest.mark.filterwarnings("ignore:Only the adapters will be trained:UserWarning")
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_configuration_works_or_is_refused(count, tmp_path):
    check = given(st.sampled_from(["swin", "swin-classifier", "swinv2-classifier", "maskformer-swin"]), configurations)(
        lambda name, chosen: works_or_is_refused(name, chosen, tmp_path)
    )
    settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )(check)()
