"""The models that are measured: classifiers with random weights, and the ways of fine-tuning them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
)

from mona_peft import Mona, MonaConfig
from mona_peft.blocks import Grid
from mona_peft.functional.formula import mona_formula
from mona_peft.functional.triton import triton_kernels
from mona_peft.integration.checkpointing import enable_checkpointing
from mona_peft.integration.selection import TASK_HEAD
from mona_peft.tasks.models import methods

SIZES = {
    "swin-tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "swin-base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    "swin-large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
    "convnext-tiny": {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
    "dinov2-small": {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12},
    "dinov2-base": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12},
}
LEFT_OUT = {"convnext-tiny": ("Mona, MLP recomputed", "Mona, branches recomputed")}
"""Methods that a size can't be trained by: a ConvNeXt has no MLP branch beside another residual."""
SMALLEST_MAP = 7
"""Side of the smallest map that a Swin's windows fit; smaller images get a model without its last stages."""


def stock_model(size: str, image_size: int, attention: str = "sdpa") -> PreTrainedModel:
    """Build a classifier with random weights."""
    torch.manual_seed(0)
    # A dropped branch would make a step cheaper by chance.
    settings = SIZES[size] | {"num_labels": 100, "drop_path_rate": 0.0}
    if size.startswith("convnext"):
        return ConvNextForImageClassification(ConvNextConfig(**settings))
    settings["attn_implementation"] = attention
    if size.startswith("dinov2"):
        return Dinov2ForImageClassification(Dinov2Config(image_size=image_size, patch_size=14, **settings))
    # On small images without the stages whose map is smaller than a window.
    num_stages = sum(image_size // (4 << stage) >= SMALLEST_MAP for stage in range(len(settings["depths"])))
    settings |= {name: settings[name][:num_stages] for name in ("depths", "num_heads")}
    return SwinForImageClassification(SwinConfig(image_size=image_size, **settings))


class FormulaMona(Mona):
    """Mona as its formula is written, by plain autograd."""

    adds_in_place = takes_any_order = False

    def forward(self, hidden_states: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Compute delta."""
        return mona_formula(hidden_states, grid, self.weights(), self.settings())


class TritonMona(Mona):
    """Mona by the kernels in Triton."""

    def forward(self, hidden_states: torch.Tensor, grid: Grid, in_place: bool = False) -> torch.Tensor:
        """Compute delta, or add it."""
        with triton_kernels():
            return super().forward(hidden_states, grid, in_place)


class PlainAdapter(Mona):
    """A bottleneck adapter in the same places: two projections and a GELU (Houlsby et al., 2019)."""

    adds_in_place = False

    def forward(self, hidden_states: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Compute delta."""
        hidden = F.gelu(F.linear(hidden_states, self.down_weight, self.down_bias))
        return F.linear(hidden, self.up_weight, self.up_bias)


def _train_only(model: nn.Module, trained: Iterable[nn.Parameter]) -> nn.Module:
    model.requires_grad_(False)
    for parameter in (*trained, *model.classifier.parameters()):
        parameter.requires_grad_(True)
    return model


def norm_tuning(model: PreTrainedModel) -> nn.Module:
    """Train all LayerNorms, bare of PEFT: about the least that has to go back through every block."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    return _train_only(model, [parameter for norm in norms for parameter in norm.parameters()])


def bitfit(model: PreTrainedModel) -> nn.Module:
    """Train all biases, bare of PEFT (Ben Zaken et al., 2022)."""
    return _train_only(model, [parameter for name, parameter in model.named_parameters() if name.endswith(".bias")])


def lora(model: PreTrainedModel) -> nn.Module:
    """PEFT's LoRA on query and value; on the two pointwise convolutions of a ConvNeXt, which has neither."""
    if isinstance(model, ConvNextForImageClassification):
        config = LoraConfig(r=methods.PAPER_DIM, target_modules=["pwconv1", "pwconv2"], modules_to_save=["classifier"])
        return get_peft_model(model, config)
    return methods.METHODS["lora"].adapt(model, bottleneck_dim=methods.PAPER_DIM)


def mona(model: PreTrainedModel, **settings: bool) -> nn.Module:
    """Mona of this package."""
    return get_peft_model(model, MonaConfig(modules_to_save=TASK_HEAD, init_weights="paper", **settings))


def mona_recompute(model: PreTrainedModel) -> nn.Module:
    """Mona with `recompute_mlp=True`."""
    return mona(model, recompute_mlp=True)


def mona_recompute_branches(model: PreTrainedModel) -> nn.Module:
    """Mona with both branches of every block recomputed."""
    return mona(model, recompute_mlp=True, recompute_attention=True)


def mona_checkpointed(model: PreTrainedModel) -> nn.Module:
    """Mona under transformers' gradient checkpointing, as it is switched on."""
    model = mona(model)
    enable_checkpointing(model, {"use_reentrant": False})
    return model


def mona_formula_only(model: PreTrainedModel) -> nn.Module:
    """Mona by its formula."""
    return _replace_monas(mona(model), FormulaMona)


def mona_triton(model: PreTrainedModel) -> nn.Module:
    """Mona by the kernels in Triton."""
    return _replace_monas(mona(model), TritonMona)


def plain_adapter(model: PreTrainedModel) -> nn.Module:
    """The plain adapter of the same width in the same places."""
    model = _replace_monas(mona(model), PlainAdapter)
    for module in model.modules():
        if isinstance(module, PlainAdapter):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name.startswith(("down_", "up_")))
    return model


def _replace_monas(model: nn.Module, new_class: type[Mona]) -> nn.Module:
    for module in model.modules():
        if type(module) is Mona:
            module.__class__ = new_class
    return model


METHODS: dict[str, Callable[[PreTrainedModel], nn.Module]] = {
    "head only": methods.METHODS["fixed"].adapt,
    "norm-tuning": norm_tuning,
    "BitFit": bitfit,
    "LoRA": lora,
    "plain adapter": plain_adapter,
    "Mona, formula": mona_formula_only,
    "Mona": mona,
    "Mona, MLP recomputed": mona_recompute,
    "Mona, branches recomputed": mona_recompute_branches,
    "Mona, checkpointed": mona_checkpointed,
    "full fine-tuning": methods.METHODS["full"].adapt,
}
if torch.cuda.is_available() and find_spec("triton"):
    METHODS["Mona, Triton"] = mona_triton


def copy_of(base: PreTrainedModel) -> PreTrainedModel:
    """Copy a model without the memory of its weights, which both share."""
    shared = {id(parameter): nn.Parameter(parameter.data) for parameter in base.parameters()}
    return copy.deepcopy(base, shared | {id(buffer): buffer for buffer in base.buffers()})


def build(method: str, base: PreTrainedModel) -> nn.Module:
    """Build a model for a method, in training mode, on a copy of `base`."""
    model = copy_of(base)
    torch.manual_seed(1)
    return METHODS[method](model).to(base.device).train()


def blocks_of(model: nn.Module) -> list[tuple[nn.Module, Grid]]:
    """Return the blocks of a Swin, each with the grid that it works on; none of other models."""
    swin = next((module for module in model.modules() if type(module).__name__ == "SwinModel"), None)
    stages = () if swin is None else swin.encoder.layers
    return [(block, stage.blocks[0].input_resolution) for stage in stages for block in stage.blocks]
