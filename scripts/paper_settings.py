"""Writes docs/paper_settings.md: what the paper's settings for dense tasks compute and keep, counted and not run.

Models are built on the meta device and run with fake tensors, which have shapes and no data: nothing is downloaded and
nothing computed.

    python -m scripts.paper_settings
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import SwinBackbone, SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

from mona_peft.tasks.comparison.memory import kept_bytes
from mona_peft.tasks.models.arguments import MethodArguments
from mona_peft.tasks.models.methods import METHODS
from mona_peft.tasks.reporting.pages import table
from mona_peft.tasks.training.presets import find_preset
from scripts.parameter_table import SIZES, STAGES

PAGE = Path(__file__).parents[1] / "docs" / "paper_settings.md"
COMPARED = ("full", "mona")
BATCH_SIZE = 2
"""UPerNet's batch norm takes no single image."""

TFLOPS_SUSTAINED = 100
"""Of a GPU, in 10^12 operations a second: what the hours in the table assume."""


def _swin(size: str, stages: Sequence[str] = STAGES) -> SwinConfig:
    # Stochastic depth asks for values, which fake tensors lack; attention is counted best where it is plain.
    plain = {"drop_path_rate": 0.0, "attn_implementation": "eager"}
    return SwinConfig(**SIZES[size], out_features=list(stages), **plain)


class _TrainedUperNet(UperNetForSemanticSegmentation):
    """With a loss, without which the auxiliary head's part has no backward pass."""

    def forward(self, pixel_values: torch.Tensor, **options: object) -> object:
        return super().forward(pixel_values=pixel_values, labels=pixel_values[:, 0].long(), **options)


def _upernet() -> nn.Module:
    config = UperNetConfig(
        backbone_config=_swin("Swin-L"), num_labels=150, auxiliary_in_channels=4 * SIZES["Swin-L"]["embed_dim"]
    )
    return _TrainedUperNet(config)


def swin_backbone(size: str, stages: Sequence[str]) -> nn.Module:
    return SwinBackbone(_swin(size, stages))


@dataclass(frozen=True)
class Setting:
    """A setting of the paper.

    Attributes:
        data: Name of the dataset.
        model: As a person reads it.
        preset: Name of the file that has the setting.
        build: Builds the model.
        size: (H, W) of an image.
        num_images: Training images in an epoch; None where the preset counts steps.
    """

    data: str
    model: str
    preset: str
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    num_images: int | None = None

    @property
    def images_seen(self) -> int:
        """Images of the whole training."""
        preset = yaml.safe_load(find_preset(self.preset).read_text(encoding="utf-8"))
        if self.num_images is None:
            return preset["max_steps"] * preset["per_device_train_batch_size"]
        return preset["num_train_epochs"] * self.num_images


PAPER = (
    Setting("ADE20K", "UPerNet, Swin-L", "ade20k", _upernet, (512, 512)),
    Setting(
        "COCO 2017",
        "Swin-B alone",
        "paper_instance_segmentation",
        partial(swin_backbone, "Swin-B", STAGES),
        (800, 800),
        118_287,
    ),
    Setting(
        "Pascal VOC 2007 + 2012",
        "Swin-L alone",
        "paper_detection",
        partial(swin_backbone, "Swin-L", STAGES[1:]),
        (600, 1000),
        16_551,
    ),
)

INTRODUCTION = """# What the paper's settings take

Counted, not run: operations and bytes of one training image, by models with shapes and without data; written by
`python -m scripts.paper_settings`. The commands are [below](#commands).

"""
NOTES = f"""
*Operations* are those of matrix products, convolutions and attention, forward and backward, a multiplication with its
addition counted as two. Losses, norms and activation functions come on top: they take time, and hardly an operation.
*Kept* is what the forward pass of one image keeps for the backward pass, in float32, model and optimiser excepted;
under `--bf16` it is about half. *Hours* are those of one GPU that sustains {TFLOPS_SUSTAINED} · 10^12 operations a
second; what yours sustains, the first hundred steps tell.

- Of UPerNet (on ADE20K) both heads and what their losses keep are counted.
- Of Mask2Former (on COCO) and RetinaNet (on VOC) the backbone alone is counted: what the one computes depends on its
  data, the other is torchvision's. Their heads come on top, whole, for either method.
- COCO's images are squares here, where the paper's keep their ratio.
- Mona computes the frozen backbone's gradients of activations, and none of its weights. That is what it saves; its own
  filters and projections take some of it back ([performance.md](performance.md) has what is measured).

## Commands

The authors' settings are presets, on eight GPUs, on VOC two:

```bash
mona-peft train image-classification --preset paper_classification --dataset path/to/images --output_dir outputs/paper
torchrun --nproc_per_node 8 -m mona_peft train semantic-segmentation --preset ade20k --output_dir outputs/ade20k \\
    --dataset path/to/ADEChallengeData2016 --train_split training --per_device_train_batch_size 2
torchrun --nproc_per_node 2 -m mona_peft train object-detection --preset paper_detection --output_dir outputs/voc \\
    --dataset path/to/VOCdevkit --bf16
torchrun --nproc_per_node 8 -m mona_peft train instance-segmentation --preset paper_instance_segmentation \\
    --output_dir outputs/coco --dataset path/to/coco --per_device_train_batch_size 2 --bf16
```

The rates are Mona's. On ADE20K the authors used `--learning_rate 6e-5` for any other method; for Mona on Flowers102 and
Oxford Pets twice the rate of `paper_classification`. On VOC it is the authors' own pairing, RetinaNet around Swin-L;
their figure is Pascal VOC's average precision at an overlap of 0.5, to which `box_ap50`, COCO's, is close, and not the
same. Cascade Mask R-CNN, which they used on COCO, is in neither library: Mask2Former stands in for it, so the paper's
numbers on COCO are not comparable.
"""


@dataclass(frozen=True)
class Cost:
    """Of one training image.

    Attributes:
        operations: Forward and backward.
        kept_bytes: What the forward pass keeps.
    """

    operations: int
    kept_bytes: int


def cost_of(setting: Setting, method: str) -> Cost:
    """Counts what a training image costs."""
    # Nor can they tell the seed of dropout, which is not counted, and keeps nothing in Mona.
    args = MethodArguments(method=method, dropout=0.0)
    with torch.device("meta"):
        model = METHODS[method](setting.build(), args).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        pixel_values = torch.empty(BATCH_SIZE, 3, *setting.size)
        with FlopCounterMode(display=False) as counter:
            _total(model(pixel_values=pixel_values)).backward()
        return Cost(counter.get_total_flops() // BATCH_SIZE, kept_bytes(model, pixel_values) // BATCH_SIZE)


def _total(outputs: object) -> torch.Tensor:
    """Returns the sum of all that a training's loss could depend on."""
    tensors = [value for value in outputs.values() if isinstance(value, torch.Tensor) and value.requires_grad]
    tensors += [value for values in outputs.values() if isinstance(values, tuple) for value in values]
    return sum(tensor.sum() for tensor in tensors if isinstance(tensor, torch.Tensor))


def page() -> str:
    """Returns the page."""
    header = ["data", "model", "images seen", "method", "operations an image", "in all", "hours", "kept an image"]
    rows = []
    for setting in PAPER:
        for method in COMPARED:
            cost = cost_of(setting, method)
            total = cost.operations * setting.images_seen
            rows.append(
                [
                    setting.data,
                    f"{setting.model}, {setting.size[0]} × {setting.size[1]}",
                    f"{setting.images_seen:,}",
                    METHODS[method].title,
                    f"{cost.operations / 1e12:.2f} · 10^12",
                    f"{total / 1e18:.2f} · 10^18",
                    f"{total / (TFLOPS_SUSTAINED * 1e12) / 3600:.0f}",
                    f"{cost.kept_bytes / 1e9:.1f} GB",
                ]
            )
    return f"{INTRODUCTION}{table(header, rows)}\n{NOTES}"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
