"""Arguments of the command line about the model and the method that adapts it."""

from dataclasses import dataclass, field
from typing import Literal

from mona_peft.tasks.models.methods import METHODS


@dataclass
class ModelArguments:
    """Which model is adapted, and how it computes attention."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"aliases": ["--model"], "help": "Name on the hub, or folder, of a pre-trained model."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention kernels, 'sdpa' or 'eager'; without it transformers chooses. Under --bf16 on a CPU "
            "'eager' is twice as fast: PyTorch's fused attention has a slow backward pass there."
        },
    )

    @property
    def base_model(self) -> str | None:
        """Name or folder of what was pre-trained."""
        return self.model_name_or_path


@dataclass
class DenseModelArguments(ModelArguments):
    """Which model is adapted: a pre-trained one, or a new one around a pre-trained backbone."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "aliases": ["--model"],
            "help": "Name on the hub, or folder, of a model pre-trained for this task; its head is new where it is for "
            "another number of classes. Without it: a new model around --backbone.",
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "Name on the hub, or folder, of a pre-trained Swin or SwinV2, a classifier for instance, or of a "
            "DINOv2 or DINOv3 ViT, whose weights the model's backbone gets; a ViT stands in ViTDet's feature pyramid, "
            "but for a linear_segmenter, dpt or eomt."
        },
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Without --model: the kind of model to build around --backbone."}
    )
    model_config: str | None = field(
        default=None,
        metadata={
            "help": "JSON of settings of the new model's config, such as '{\"hidden_size\": 256}'; those under "
            "backbone_config are the backbone's."
        },
    )

    @property
    def base_model(self) -> str | None:
        """Name or folder of the pre-trained model, or of the pre-trained backbone of a new one."""
        return self.model_name_or_path or self.backbone


@dataclass
class MethodArguments:
    """What is trained, and how: a method, and the settings that it takes (`METHODS` has which those are)."""

    method: str = field(
        default="mona",
        metadata={
            "choices": list(METHODS),
            "help": "What is trained besides the task head; "
            + "; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
            + ".",
        },
    )
    bottleneck_dim: int = field(
        default=64,
        metadata={
            "help": "Width of the bottleneck of Mona, Adapter and AdaptFormer, rank of LoRA; the sizes of LoRand and "
            "CoLin are scaled with it, and are their authors' at 64."
        },
    )
    kernel_sizes: list[int] = field(
        default_factory=lambda: [3, 5, 7], metadata={"help": "Mona: sizes of the depthwise filters, odd."}
    )
    dropout: float = field(
        default=0.1, metadata={"help": "Mona, Adapter, AdaptFormer: dropout before the up projection."}
    )
    sites: list[str] = field(
        default_factory=lambda: ["attention", "mlp"],
        metadata={
            "help": "At which half of a block an adapter stands, attention, mlp, or both (AdaptFormer: mlp alone)."
        },
    )
    init_weights: Literal[True, "paper"] = field(
        default=True,
        metadata={
            "help": "True starts at the pre-trained model's outputs, paper with the initialisation of the authors."
        },
    )

    def __post_init__(self) -> None:
        """Check the width, which some methods would scale to another one without a word."""
        if self.bottleneck_dim < 1:
            raise ValueError(f"--bottleneck_dim {self.bottleneck_dim}: give a whole number of at least 1.")
