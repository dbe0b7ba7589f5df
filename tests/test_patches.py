"""What importing this package changes in PEFT and transformers: nothing for other methods, whatever is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mona_peft.integration.patches import MARK, PATCHES, apply_patches

OTHER_METHODS = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from transformers import ViTConfig, ViTForImageClassification

def base():
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, image_size=32, patch_size=8)).eval()

image = torch.ones(1, 3, 32, 32)
for config in (
    LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    IA3Config(target_modules=["k_proj", "fc1"], feedforward_modules=["fc1"]),
    LNTuningConfig(target_modules=["layernorm_before"]),
):
    with tempfile.TemporaryDirectory() as folder:
        model = get_peft_model(base(), config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        model.save_pretrained(folder)
        expected = model(image).logits
        assert torch.allclose(PeftModel.from_pretrained(base(), folder)(image).logits, expected)
        native = base()
        native.load_adapter(folder)
        if config.peft_type != "LN_TUNING":  # transformers itself loads none of its weights
            assert torch.allclose(native(image).logits, expected), config.peft_type
        print(config.peft_type.value, type(model).__name__, *(round(float(x), 6) for x in expected.flatten()))
"""

WITHOUT_PRIVATE_NAMES = """
from transformers.utils.hub import PushToHubMixin
import transformers.modeling_utils
PushToHubMixin._upload_modified_files_renamed = PushToHubMixin.__dict__["_upload_modified_files"]
del PushToHubMixin._upload_modified_files
"""

WRAPPED_BY_OTHERS = """
import functools, peft
from transformers.integrations.peft import PeftAdapterMixin

def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

peft.PeftModel.__init__ = wrapped(peft.PeftModel.__init__)
PeftAdapterMixin.load_adapter = wrapped(PeftAdapterMixin.load_adapter)
"""

HALF_AN_ADAPTER = """
import tempfile
from pathlib import Path
import mona_peft
from safetensors import safe_open
from safetensors.torch import load_file, save_file

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "adapter_model.safetensors")
    get_peft_model(base(), mona_peft.MonaConfig(bottleneck_dim=8, modules_to_save=[])).save_pretrained(folder)
    with safe_open(file, "pt") as opened:
        assert "sha256" in opened.metadata()
    tensors = load_file(file)
    save_file({name: tensor for number, (name, tensor) in enumerate(tensors.items()) if number % 2}, file)
    for load in (lambda: PeftModel.from_pretrained(base(), folder), lambda: base().load_adapter(folder)):
        try:
            load()
        except ValueError as error:
            assert "does not fit" in str(error)
        else:
            raise SystemExit("half an adapter was loaded")
"""


def run(*parts: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_other_methods_are_as_before():
    """With this package, and with each private name that it uses taken away, they do what they do without it."""
    alone = run(OTHER_METHODS)
    assert len(alone.splitlines()) == 3
    assert run("import mona_peft", OTHER_METHODS) == alone
    assert run(WITHOUT_PRIVATE_NAMES, "import mona_peft", OTHER_METHODS) == alone


def test_functions_that_others_have_wrapped_before_are_wrapped_too():
    run(WRAPPED_BY_OTHERS, OTHER_METHODS, HALF_AN_ADAPTER)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_each_point_is_changed_once_and_accounted_for(patch):
    wrapper = patch.owner.__dict__[patch.name]
    apply_patches()
    assert patch.owner.__dict__[patch.name] is wrapper
    assert hasattr(getattr(patch.owner, patch.name), MARK)
    assert all((patch.why, patch.until, patch.if_missing))
