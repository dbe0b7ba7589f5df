"""Any order of attaching, switching, weighing, training, saving, loading and deleting adapters, against a naive model.

The naive model is a dict of plain tensors an adapter, and the sum of the readable formula's deltas in each block.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peft import get_peft_model
from torch.func import functional_call
from transformers import ViTConfig, ViTForImageClassification

from mona_peft import Mona, MonaConfig
from mona_peft.functional.formula import mona_formula
from tests.naive_blocks import VIT

GRID = (2, 3)
SITES = ("mona_attn", "mona_mlp")
NAMES = ("red", "green", "blue")
IMAGES = torch.randn(2, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ADAPTER = {"init_weights": False, "dropout": 0.0, "kernel_sizes": (1, 3)}
LEARNING_RATE = 0.1


def base_model() -> ViTForImageClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = ViTConfig(**sizes, image_size=(8, 12), patch_size=4, num_labels=3)
    return ViTForImageClassification(config).double().eval()


class Adapter(NamedTuple):
    """Weights by name, those of the Monas by block, site and parameter; the head is none or weight and bias."""

    width: int
    monas: dict[tuple[int, str, str], torch.Tensor]
    head: dict[str, torch.Tensor] | None

    def tensors(self) -> list[torch.Tensor]:
        return [*self.monas.values(), *(self.head or {}).values()]


class NaiveModel:
    def __init__(self) -> None:
        self.base = base_model().requires_grad_(False)
        self.adapters: dict[str, Adapter] = {}
        self.weights: dict[str, float] = {}
        """The factor of each active adapter; those not named here are not active."""

    def logits(self) -> torch.Tensor:
        hidden = self.base.vit.embeddings(IMAGES)
        for index, block in enumerate(self.base.vit.layers):
            hidden = self._adapt(VIT.attention(block, hidden), index, SITES[0])
            hidden = self._adapt(hidden + VIT.mlp(block, hidden, GRID), index, SITES[1])
        pooled = self.base.vit.layernorm(hidden)[:, 0]
        heads = [self.adapters[name].head for name in self.weights if self.adapters[name].head]
        return functional_call(self.base.classifier, heads[0] if heads else {}, pooled)

    def _adapt(self, hidden: torch.Tensor, index: int, site: str) -> torch.Tensor:
        deltas = []
        for name, factor in self.weights.items():
            width, monas, _ = self.adapters[name]
            mona = Mona(8, width, ADAPTER["kernel_sizes"], dropout=0.0)
            for parameter in list(mona._parameters):
                mona._parameters[parameter] = monas[index, site, parameter]
            deltas.append(factor * mona_formula(hidden, GRID, mona.weights(), mona.settings()))
        return hidden + sum(deltas)


class Lifecycle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.naive = NaiveModel()
        self.saved: dict[str, Adapter] = {}
        self.model = get_peft_model(base_model(), self._config(2, True), adapter_name=NAMES[0])
        self.naive.adapters[NAMES[0]] = self._read(NAMES[0], 2)
        self.naive.weights = {NAMES[0]: 1.0}

    @initialize()
    def attach_another(self) -> None:
        self.attach(NAMES[1], 3, False)

    def teardown(self) -> None:
        self.folder.cleanup()

    @staticmethod
    def _config(width: int, has_head: bool) -> MonaConfig:
        return MonaConfig(**ADAPTER, bottleneck_dim=width, modules_to_save=["classifier"] if has_head else [])

    def _parameters(self, name: str) -> Adapter:
        """The model's own parameters of an adapter."""
        base = self.model.get_base_model()
        monas = {
            (index, site, parameter): tensor
            for index, block in enumerate(base.vit.layers)
            for site in SITES
            for parameter, tensor in getattr(block.mona, site)[name].named_parameters()
        }
        heads = getattr(base.classifier, "modules_to_save", {})
        return Adapter(0, monas, dict(heads[name].named_parameters()) if name in heads else None)

    def _read(self, name: str, width: int) -> Adapter:
        _, monas, head = self._parameters(name)
        clone = {key: tensor.detach().clone() for key, tensor in monas.items()}
        return Adapter(width, clone, head and {key: tensor.detach().clone() for key, tensor in head.items()})

    @rule(name=st.sampled_from(NAMES), width=st.integers(1, 3), has_head=st.booleans())
    def attach(self, name: str, width: int, has_head: bool) -> None:
        if name in self.naive.adapters:
            return
        self.model.add_adapter(name, self._config(width, has_head))
        self.naive.adapters[name] = self._read(name, width)
        assert (self.naive.adapters[name].head is not None) == has_head

    @rule(data=st.data())
    def switch(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.adapters)))
        self.model.set_adapter(name)
        if self.naive.weights.keys() != {name}:
            self.naive.weights = {name: 1.0}

    @rule(data=st.data())
    def weigh(self, data) -> None:
        names = data.draw(st.permutations(sorted(self.naive.adapters)))
        names = names[: data.draw(st.integers(1, len(names)))]
        while sum(self.naive.adapters[name].head is not None for name in names) > 1:
            names.pop()
        factors = data.draw(st.lists(st.sampled_from([-2.0, 0.5, 1.0, 0.0]), min_size=3, max_size=3))[: len(names)]
        self.model.set_adapters(names, factors)
        self.naive.weights = dict(zip(names, factors, strict=True))

    @rule(steps=st.integers(1, 2))
    def train(self, steps: int) -> None:
        self.model.train()
        for _ in range(steps):
            trained = [p for name in self.naive.weights for p in self._parameters(name).tensors() if p.requires_grad]
            ours = [p for p in self.model.parameters() if p.requires_grad]
            assert {id(p) for p in ours} == {id(p) for p in trained}, "what is trained is what is active"
            torch.optim.SGD(ours, LEARNING_RATE).zero_grad()
            (self.model(IMAGES).logits.sin().sum()).backward()
            torch.optim.SGD(ours, LEARNING_RATE).step()

            pairs = [
                (tensor, parameter)
                for name in self.naive.weights
                for tensor, parameter in zip(
                    self.naive.adapters[name].tensors(), self._parameters(name).tensors(), strict=True
                )
            ]
            naive = [tensor.requires_grad_() for tensor, parameter in pairs if parameter.requires_grad]
            gradients = torch.autograd.grad(self.naive.logits().sin().sum(), naive, allow_unused=True)
            for tensor, gradient in zip(naive, gradients, strict=True):
                tensor.requires_grad_(False)
                if gradient is not None:
                    tensor.sub_(gradient, alpha=LEARNING_RATE)
        self.model.eval()

    @rule()
    def disable(self) -> None:
        with self.model.disable_adapter(), torch.no_grad():
            logits = self.model(IMAGES).logits
        torch.testing.assert_close(logits, self.naive.base(IMAGES).logits)

    @rule()
    def save(self) -> None:
        self.model.save_pretrained(self.folder.name)
        self.saved |= copy.deepcopy(self.naive.adapters)

    @precondition(lambda self: self.saved)
    @rule(name=st.sampled_from(NAMES), data=st.data())
    def load(self, name: str, data) -> None:
        source = data.draw(st.sampled_from(sorted(self.saved)))
        if name in self.naive.adapters:
            return
        self.model.load_adapter(str(Path(self.folder.name) / source), name)
        self.naive.adapters[name] = copy.deepcopy(self.saved[source])

    @precondition(lambda self: len(self.naive.adapters) > 1)
    @rule(data=st.data())
    def delete(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.adapters)))
        self.model.delete_adapter(name)
        del self.naive.adapters[name]
        if name in self.naive.weights:
            # Others are active than before, each with the weight 1; which, if none is left, is for PEFT to say.
            left = self.naive.weights.keys() - {name} or set(self.model.active_adapters)
            assert left <= self.naive.adapters.keys()
            self.naive.weights = dict.fromkeys(left, 1.0)

    @invariant()
    def agrees(self) -> None:
        assert self.model.peft_config.keys() == self.naive.adapters.keys()
        assert set(self.model.active_adapters) == self.naive.weights.keys()
        for name, adapter in self.naive.adapters.items():
            for ours, theirs in zip(self._parameters(name).tensors(), adapter.tensors(), strict=True):
                torch.testing.assert_close(ours.detach(), theirs)
        with torch.no_grad():
            torch.testing.assert_close(self.model(IMAGES).logits, self.naive.logits())


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
FILTER = pytest.mark.filterwarnings("ignore::UserWarning")

TestLifecycle = FILTER(Lifecycle.TestCase)
TestLifecycle.settings = settings(
    phases=[Phase.generate],  # without minutes of shrinking
    max_examples=10,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=QUIET,
    database=None,
)


class LongLifecycle(Lifecycle):
    pass


TestLongLifecycle = pytest.mark.slow(FILTER(LongLifecycle.TestCase))
TestLongLifecycle.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=QUIET, database=None
)
