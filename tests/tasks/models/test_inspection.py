"""`mona-peft inspect`: what would be trained, from a config alone, is what is trained."""

import json

import pytest
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from mona_peft.cli import run as command
from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.inspection import empty_model, inspect_method
from mona_peft.tasks.models.methods import METHODS
from tests.tiny_runs import backbone

METHODS_OF_EVERY_KIND = ["mona", "lora", "bitfit", "fixed", "full", "partial-1", "norm-tuning", "adaptformer"]


@pytest.mark.parametrize("method", METHODS_OF_EVERY_KIND)
def test_counts_are_those_of_the_adapted_model(method):
    args = MethodArguments(method=method, bottleneck_dim=4)
    found = inspect_method(empty_model(str(backbone())), args)
    base = AutoModelForImageClassification.from_pretrained(backbone())
    total = sum(parameter.numel() for parameter in base.parameters())
    head = sum(parameter.numel() for parameter in base.classifier.parameters())
    adapted = METHODS[method](base, args)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert (found.base_parameters, found.trained) == (total, trained)
    assert found.head == {"classifier": head}
    assert len(found.blocks) == sum(base.config.depths)


def test_sites_and_channels_of_mona():
    found = inspect_method(empty_model(str(backbone())), MethodArguments(bottleneck_dim=4, sites=["mlp"]))
    assert {block.places for block in found.blocks} == {("mlp",)}
    assert [block.channels for block in found.blocks] == sorted(block.channels for block in found.blocks)
    assert found.blocks[0].kind == "SwinLayer"
    assert found.elsewhere == 0


def test_channels_of_a_bottleneck_are_those_that_leave_it(tmp_path):
    """A block of a ResNet begins with a norm that is narrower than its output, where an adapter stands."""
    settings = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"}
    ResNetForImageClassification(ResNetConfig(**settings)).save_pretrained(tmp_path)
    found = inspect_method(empty_model(str(tmp_path)), MethodArguments(bottleneck_dim=4))
    assert [block.channels for block in found.blocks] == [16, 32, 32]


def test_config_alone_is_enough_and_no_weight_is_made(tmp_path, capsys):
    (tmp_path / "config.json").write_text((backbone() / "config.json").read_text())
    assert all(parameter.device.type == "meta" for parameter in empty_model(str(tmp_path)).parameters())
    assert command(["inspect", str(tmp_path), "--bottleneck_dim", "4"]) == 0
    printed = capsys.readouterr().out
    assert "SwinForImageClassification" in printed
    assert "attention, mlp" in printed
    assert "task head (classifier)" in printed


def test_model_of_another_family_and_one_without_blocks_say_why(tmp_path, capsys):
    assert command(["inspect", str(tmp_path / "nothing")]) == 2
    assert "neither a folder with a model" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mobilenet_v2", "architectures": ["MobileNetV2ForImageClassification"]})
    )
    assert command(["inspect", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
