"""Distils DINOv2-small into a small Swin: crops of few photographs, and what the teacher's patches say of them.

    python -m scripts.demonstration.distill

After "The Augmented Image Prior" (Asano and Saeed, ICLR 2023): a teacher and crops of very few images suffice. The
teacher runs once over the crops; `--resume_from_checkpoint last` goes on after an interruption. All arguments of
`transformers.TrainingArguments` work. The result is written to `distilled/` in the output directory: weights in
float16, the image processor, and a card that has what frozen features tell apart, the teacher's and those of the
backbone of letters beside the student's. No image of ELPV or of digits is used but for these figures.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModel, SwinConfig, SwinModel, Trainer, TrainingArguments, ViTImageProcessorPil, set_seed
from transformers.utils import ModelOutput

from mona_peft.tasks.training.run_directory import find_checkpoint
from scripts.demonstration.dinov2 import MEAN, STD, dinov2_small
from scripts.demonstration.photographs import photographs
from scripts.demonstration.pretraining import Stopwatch, num_pictures, parse, save_demonstration_model
from scripts.demonstration.probing import as_input, probe
from scripts.demonstration.wallpapers import PACKAGES, wallpapers

STUDENT_SIZE, TEACHER_SIZE = 128, 112
"""Sides of a crop in pixels: 8 x 8 tokens in the student's third stage, and 8 x 8 patches of the teacher."""

LETTERS, LETTERS_SIZE = Path(__file__).parent / "backbone", 64
LETTERS_SCALE = 0.5
"""Mean and standard deviation of the channels of the images that the backbone of letters takes."""

MIN_CROP = 96
"""Side of the smallest crop in pixels of its picture."""

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/distilled_backbone",
    "max_steps": 3000,
    "per_device_train_batch_size": 48,
    "learning_rate": 1.5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "save_steps": 50,
}

CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: image-feature-extraction
tags: [swin]
---

# Distilled backbone

A Swin of {{parameters:,}} parameters for pictures of {size} x {size} pixels, patches of 4 x 4, four stages, that
learnt from DINOv2-small what it says of crops of photographs.

- **Data**: {{args.num_crops:,}} crops of {num_images} pictures: photographs that ship with scikit-image
  ({{photographs}}), and Debian's packages {packages}.
- **Frozen features**, accuracy by a linear classifier / by ten neighbours:
{figures}
- **Training**: {{steps:,}} steps of {{batch_size}}, seed {{seed}}, {{minutes:.0f}} minutes on {{num_threads}} thread(s)
  of a CPU that other work shared. Command: `python -m scripts.demonstration.distill`; settings and versions are in
  `training.json`.
- **Files**: the weights are stored in float16 and loaded in float32.
"""


@dataclass
class DistillationArguments(TrainingArguments):
    """Arguments of this distillation."""

    num_crops: int = field(default=10_000, metadata={"help": "Crops that the teacher sees, once each."})


class Crops:
    """Square crops of pictures, the same for the same number.

    Args:
        pictures: In RGB.
        seed: Of places and sizes; small crops are drawn as often as large ones, by the logarithm of their side.
    """

    def __init__(self, pictures: Sequence[Image.Image], seed: int) -> None:
        self.pictures = pictures
        self.seed = seed

    def crop(self, number: int, size: int) -> torch.Tensor:
        """Returns a crop as a model takes it, (3, size, size)."""
        random = np.random.default_rng([self.seed, number])
        picture = self.pictures[random.integers(len(self.pictures))]
        least, most = np.log(min(MIN_CROP, *picture.size)), np.log(min(picture.size))
        side = int(np.exp(random.uniform(least, most)))
        left, top = (int(random.integers(length - side + 1)) for length in picture.size)
        return as_input(picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


class TaughtCrops(Dataset):
    """Crops, any of them at any step and mirrored or not, each with its teacher's tokens.

    Args:
        crops: The crops.
        tokens: (N, 1 + 8 * 8, C) in float16, of the crops as they are; standardised channel by channel.
        length: How many are drawn.
        seed: Of the draws.
    """

    def __init__(self, crops: Crops, tokens: torch.Tensor, length: int, seed: int) -> None:
        self.crops, self.tokens, self.length, self.seed = crops, tokens, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng([self.seed, index])
        number, mirrored = int(random.integers(len(self.tokens))), random.random() < 0.5
        pixels, tokens = self.crops.crop(number, STUDENT_SIZE), self.tokens[number].float()
        patches = tokens[1:].unflatten(0, (TEACHER_SIZE // 14, -1))
        if mirrored:
            pixels, patches = pixels.flip(-1), patches.flip(1)
        return {"pixel_values": pixels, "class_token": tokens[0], "patch_tokens": patches}


class Distillation(nn.Module):
    """A Swin whose tokens are to say, through a linear layer each, what the teacher's say.

    The third stage is compared patch by patch, the fourth with the mean of two by two patches, and what is pooled of
    it with the class token; all three count alike.

    Args:
        student: The Swin.
        teacher_dim: C, the channels of the teacher.
    """

    def __init__(self, student: SwinModel, teacher_dim: int) -> None:
        super().__init__()
        self.student = student
        last = student.num_features
        self.heads = nn.ModuleList(nn.Linear(dim, teacher_dim) for dim in (last // 2, last, last))
        student.encoder.layers[2].blocks[-1].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        self.third = output[0] if isinstance(output, tuple) else output

    def forward(
        self, pixel_values: torch.Tensor, class_token: torch.Tensor, patch_tokens: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Returns the loss: mean squared differences of tokens.

        Args:
            pixel_values: (B, 3, H, W).
            class_token: (B, C).
            patch_tokens: (B, S, S, C).
        """
        outputs = self.student(pixel_values)
        halved = patch_tokens.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).mean((2, 4))
        said = (self.third, outputs.last_hidden_state, outputs.pooler_output)
        wanted = (patch_tokens.flatten(1, 2), halved.flatten(1, 2), class_token)
        losses = [
            nn.functional.mse_loss(head(tokens).float(), target)
            for head, tokens, target in zip(self.heads, said, wanted, strict=True)
        ]
        return {"loss": torch.stack(losses).mean()}


def build_student() -> SwinModel:
    """Returns the student with random weights, shaped as the backbone of letters but for its patches."""
    return SwinModel(
        SwinConfig(
            image_size=STUDENT_SIZE,
            patch_size=4,
            embed_dim=32,
            depths=[2, 2, 4, 2],
            num_heads=[1, 2, 4, 8],
            window_size=4,
            initializer_range=0.05,  # as in the backbone of letters
            drop_path_rate=0.05,
        )
    )


@torch.no_grad()
def teacher_tokens(crops: Crops, number: int, file: Path) -> torch.Tensor:
    """Returns the teacher's tokens of crops, (N, 1 + 8 * 8, C) in float16, standardised by channel.

    Args:
        crops: The crops.
        number: N.
        file: Where they are kept; those that are there are not computed again.
    """
    if not file.exists():
        teacher = AutoModel.from_pretrained(dinov2_small(), attn_implementation="eager").eval()
        tokens = []
        for numbers in np.array_split(np.arange(number), max(1, number // 32)):
            pixels = torch.stack([crops.crop(int(one), TEACHER_SIZE) for one in numbers])
            with torch.autocast(pixels.device.type, torch.bfloat16):
                tokens.append(teacher(pixels).last_hidden_state.float())
        whole = torch.cat(tokens)
        # The class token and the patches differ in level, so that each has a mean and a scale of its own.
        parts = [whole[:, :1], whole[:, 1:]]
        parts = [(part - part.mean((0, 1))) / part.std((0, 1)) for part in parts]
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tokens": torch.cat(parts, dim=1).half()}, file)
    return load_file(file)["tokens"]


class Letters(nn.Module):
    """The backbone of letters, for images scaled as the teacher takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(LETTERS)
        self.register_buffer("scale", torch.tensor(STD).view(1, 3, 1, 1) / LETTERS_SCALE)
        self.register_buffer("shift", torch.tensor(MEAN).view(1, 3, 1, 1) / LETTERS_SCALE - 1)

    def forward(self, pixel_values: torch.Tensor) -> ModelOutput:
        """Returns what it makes of images, (B, 3, H, W)."""
        return self.model(pixel_values * self.scale + self.shift)


def figures(student: nn.Module) -> dict[str, float]:
    """Returns what frozen features tell apart: of the student, of its teacher and of the backbone of letters."""
    models = {
        "student": (student, STUDENT_SIZE),
        "teacher": (AutoModel.from_pretrained(dinov2_small(), attn_implementation="eager"), TEACHER_SIZE),
        "letters": (Letters(), LETTERS_SIZE),
    }
    return {f"{name}_{what}": value for name, one in models.items() for what, value in probe(*one).items()}


def card_figures(results: dict[str, float]) -> str:
    """Returns the lines of a card."""
    lines = []
    for name in ("student", "teacher", "letters"):
        found = [
            f"{results[f'{name}_{what}_linear']:.1%} / {results[f'{name}_{what}_neighbours']:.1%}"
            for what in ("cells", "digits", "plain_digits")
        ]
        lines.append(f"  {name}: solar cells {found[0]}, digits over photographs {found[1]}, on black {found[2]}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the given arguments, or those of the command line.

    Raises:
        OSError, ValueError: Wallpapers, weights or images can't be downloaded or are not the expected ones.
    """
    args = parse(argv, DEFAULTS, DistillationArguments)
    checkpoint = find_checkpoint(args)
    pictures = [*photographs("pretraining"), *wallpapers()]
    crops = Crops(pictures, args.seed)
    # Beside the output directory, so that a run that ends before its first checkpoint leaves that one empty.
    file = Path(f"{args.output_dir}-teacher-{args.num_crops}-{args.seed}.safetensors")
    tokens = teacher_tokens(crops, args.num_crops, file)
    set_seed(args.seed)
    size = {"height": STUDENT_SIZE, "width": STUDENT_SIZE}
    trainer = Trainer(
        model=Distillation(build_student(), tokens.shape[-1]),
        args=args,
        train_dataset=TaughtCrops(crops, tokens, num_pictures(args), args.seed),
        processing_class=ViTImageProcessorPil(size=size, image_mean=list(MEAN), image_std=list(STD)),
        callbacks=[Stopwatch()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.model = trainer.model.student  # what is kept
    results = figures(trainer.model)
    told = {"size": STUDENT_SIZE, "num_images": len(pictures), "packages": ", ".join(PACKAGES)}
    card = CARD.format(**told, figures=card_figures(results))
    save_demonstration_model(Path(args.output_dir, "distilled"), trainer, results, card)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
