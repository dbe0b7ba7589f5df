"""Equality with tensors recorded from the authors' code: module and whole backbone, outputs and gradients."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import SwinBackbone, SwinConfig

from mona_peft import Mona, MonaConfig
from mona_peft.interop.official_names import MONA_PARAMETERS
from tests.official import FOLDER, our_name, recorded

TOLERANCE = {"atol": 5e-5, "rtol": 0}
INPUTS = ["sq64", "sq56", "odd60x92", "small24x40", "pad50x37"]


@pytest.fixture(scope="module")
def module_record():
    return recorded("mona_module_24")


def load_module(record: dict[str, torch.Tensor]) -> Mona:
    mona = Mona(24)
    mona.load_state_dict({ours: record[f"param.{theirs}"] for theirs, ours in MONA_PARAMETERS.items()})
    return mona.eval()


def test_module_output_and_gradients(module_record):
    mona = load_module(module_record)
    x = module_record["x"].requires_grad_()
    y = x + mona(x, (5, 7))
    torch.testing.assert_close(y, module_record["y"], **TOLERANCE)
    (y * module_record["cotangent"]).sum().backward()
    torch.testing.assert_close(x.grad, module_record["grad_x"], **TOLERANCE)
    for theirs, ours in MONA_PARAMETERS.items():
        torch.testing.assert_close(
            mona.get_parameter(ours).grad,
            module_record[f"grad.{theirs}"],
            **TOLERANCE,
            msg=lambda m, n=ours: f"{n}: {m}",
        )


def test_recorded_module_tells_height_from_width(module_record):
    """The record is sharp enough: a swapped grid would show."""
    mona = load_module(module_record)
    x = module_record["x"]
    with torch.no_grad():
        assert (x + mona(x, (7, 5)) - module_record["y"]).abs().max() > 1e-2


def base_model() -> SwinBackbone:
    config = SwinConfig(**json.loads((FOLDER / "hf_base_w7_config.json").read_text()))
    model = SwinBackbone(config)
    missing, unexpected = model.load_state_dict(recorded("hf_base_w7"), strict=False)
    assert not unexpected
    # The record has no final norm, which backbones do not use.
    assert all("swin.layernorm" in name or "relative_position_index" in name for name in missing)
    return model.eval()


def adapted_model(dropout: float = 0.1) -> PeftModel:
    model = get_peft_model(base_model(), MonaConfig(dropout=dropout)).eval()
    official = {ours: tensor for key, tensor in recorded("official_mona_w7").items() if (ours := our_name(key))}
    missing, unexpected = model.load_state_dict(official, strict=False)
    assert not unexpected
    assert not [name for name in missing if ".mona_" in name]
    return model


@pytest.mark.parametrize("name", INPUTS)
def test_base_without_mona(name):
    """The frozen backbone itself agrees, so that a difference with Mona would be Mona's."""
    check_feature_maps(base_model(), name, recorded("expected_outputs_w7_mona_off"))


@pytest.mark.parametrize("name", INPUTS)
def test_backbone_feature_maps(name):
    check_feature_maps(adapted_model(), name, recorded("expected_outputs_w7"))


@torch.no_grad()
def check_feature_maps(model, name, expected):
    feature_maps = model(recorded("inputs")[name]).feature_maps
    assert len(feature_maps) == 2
    for stage, feature_map in enumerate(feature_maps):
        torch.testing.assert_close(feature_map, expected[f"{name}.stage{stage}"], **TOLERANCE)


@pytest.mark.parametrize("name", ["sq64", "odd60x92"])
def test_backbone_gradients(name):
    model = adapted_model(dropout=0.0).train()
    feature_maps = model(recorded("inputs")[name]).feature_maps
    sum(feature_map.pow(2).mean() for feature_map in feature_maps).backward()
    expected = {
        ours: gradient
        for key, gradient in recorded("expected_grads_w7").items()
        if key.startswith(f"{name}.") and (ours := our_name(key.removeprefix(f"{name}.")))
    }
    assert len(expected) == 2 * 2 * len(MONA_PARAMETERS)  # two blocks with two Monas each
    for ours, gradient in expected.items():
        torch.testing.assert_close(
            model.get_parameter(ours).grad, gradient, **TOLERANCE, msg=lambda m, n=ours: f"{n}: {m}"
        )
