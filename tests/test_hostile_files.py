"""Hostile and damaged adapters, and any configuration: it works, or one clear error, and nothing runs or changes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
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
from tests.models import build, images, largest_difference, outputs
from tests.native_adapters import HAS_NATIVE_ADAPTERS
from tests.test_save_load import WEIGHTS, trained

CONFIG = "adapter_config.json"


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
        for way in WAYS
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
    intact = (tmp_path / WEIGHTS).read_bytes()
    expected = outputs(PeftModel.from_pretrained(build("swin-classifier"), tmp_path).eval(), images())

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(position=st.integers(0, len(intact) - 1) | st.integers(0, 10_000), bit=st.integers(0, 7))
    def refused_or_harmless(position, bit):
        content = bytearray(intact)
        content[position] ^= 1 << bit
        (tmp_path / WEIGHTS).write_bytes(content)
        try:
            model = PeftModel.from_pretrained(build("swin-classifier"), tmp_path).eval()
        except ValueError:
            return
        assert largest_difference(outputs(model, images()), expected) == 0

    refused_or_harmless()


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
