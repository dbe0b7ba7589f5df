"""SAM, SAM 2 and SAM 3's tracker fine-tuned on masks by prompts that are derived from them."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForMaskGeneration,
    ProcessorMixin,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
)

from mona_peft.tasks.data.objects.check import decode_masks
from scripts import train_promptable_segmentation as script
from scripts.demonstration import scene_objects
from scripts.train_promptable_segmentation import PADDING, box_prompts, collate, main, point_prompts
from tests.folders import write_coco
from tests.tiny_configs import SAM2, SAM3

SIDE = 32
DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
PROMPTS = {"hidden_size": 32, "mask_input_channels": 4}


def sam() -> nn.Module:
    vision = {
        **{"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64},
        **{"image_size": SIDE, "patch_size": 4, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16},
        "initializer_range": 0.1,
    }
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config={**PROMPTS, "image_size": SIDE, "patch_size": 4},
        mask_decoder_config=DECODER,
        initializer_range=0.15,
    )
    model = SamModel(config)
    # Positions as waves of about the image's length, as those of the pre-trained model are.
    for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        embedding.positional_embedding.data = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    return model


def sam2() -> nn.Module:
    vision = {
        "backbone_config": {"model_type": "sam2_hiera_det_model", **SAM2},
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[8, 8], [4, 4], [2, 2]],
        "fpn_hidden_size": 32,
    }
    prompts = {**PROMPTS, "image_size": SIDE, "patch_size": 16}
    return transformers.Sam2Model(
        transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    )


def sam3() -> nn.Module:
    vision = {
        "backbone_config": {"model_type": "sam3_vit_model", **SAM3, "image_size": SIDE},
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
    prompts = {**PROMPTS, "image_size": SIDE, "patch_size": 8}
    return transformers.Sam3TrackerModel(
        transformers.Sam3TrackerConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    )


MODELS = {"sam": sam, "sam2": sam2, "sam3": sam3}
NEEDS = {"sam2": "Sam2Model", "sam3": "Sam3TrackerModel"}
THERE = [name for name in MODELS if hasattr(transformers, NEEDS.get(name, "SamModel"))]
WANT_TORCHVISION = [pytest.param(name, True, marks=pytest.mark.torchvision) for name in THERE if name != "sam"]
"""SAM 2 and 3 with their own image processors, which the others do without."""


def processor(name: str, side: int = SIDE) -> ProcessorMixin:
    square = {"height": side, "width": side}
    if name == "sam":
        return SamProcessor(
            SamImageProcessorPil(size={"longest_edge": side}, pad_size=square, mask_size={"longest_edge": side // 4})
        )
    if name == "sam2":
        return transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=square))
    return transformers.Sam3TrackerProcessor(transformers.Sam3ImageProcessor(size=square))


def save(name: str, folder: Path, own_processor: bool = False) -> str:
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder)
    processor(name if own_processor else "sam").image_processor.save_pretrained(folder)
    return str(folder)


def options(model: str, folder: Path, *more: str) -> list[str]:
    common = ["--use_cpu", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true"]
    return ["--model", model, "--output_dir", str(folder), "--bottleneck_dim", "8", *common, *more]


def result(capsys: pytest.CaptureFixture, arguments: list[str]) -> dict[str, float]:
    main(arguments)
    return eval(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def scenes(monkeypatch):
    """Few scenes of digits, whose masks are compared in small."""
    monkeypatch.setattr(scene_objects, "NUM_SCENES", {"train": 16, "validation": 8})
    monkeypatch.setattr(script, "LABEL_SIDE", 32)


TRAINING = ["--per_device_train_batch_size", "8", "--learning_rate", "5e-3", "--lr_scheduler_type", "constant"]


@pytest.mark.parametrize(("name", "own_processor"), [*((name, False) for name in THERE), *WANT_TORCHVISION])
def test_what_is_saved_is_what_was_trained(scenes, tmp_path, capsys, name, own_processor):
    name, run = save(name, tmp_path / "model", own_processor), tmp_path / "run"
    found = result(capsys, options(name, run, *TRAINING, "--max_steps", "12"))
    again = PeftModel.from_pretrained(AutoModelForMaskGeneration.from_pretrained(name), run).eval()
    images = script.PromptedMasks(
        script.load_data(script.ObjectDataArguments(), 0)["validation"],
        image_processor=AutoImageProcessor.from_pretrained(run),
        prompts="boxes",
    )
    with torch.no_grad():
        loss = script.PromptTrainer.compute_loss(None, again, collate(list(images))).item()
    assert loss == pytest.approx(found["loss"], rel=1e-4)
    assert found["loss"] < found["loss_before"]


@pytest.mark.parametrize(("name", "own_processor"), [("sam", True), *WANT_TORCHVISION])
def test_prompts_and_labels_are_those_of_the_processor(tmp_path, name, own_processor):
    """What is trained on is what the model is given later, by its processor."""
    write_coco(tmp_path, train=4, val=2)
    rows = script.load_data(script.ObjectDataArguments(dataset=str(tmp_path)), 0)["train"]
    ours, makers = processor(name, script.LABEL_SIDE), {"boxes": box_prompts, "points": point_prompts}
    for prompts, make in makers.items():
        images = script.PromptedMasks(rows, image_processor=ours.image_processor, prompts=prompts)
        for index, sample in enumerate(images):
            image, objects = images.decode(rows[index], index), rows[index]["objects"]
            masks = decode_masks(objects, image.width, image.height)[~np.array(objects["iscrowd"], dtype=bool)]
            told = make(masks)[None, :, None] if prompts == "points" else make(masks)[None]
            wanted = ours(image, **{f"input_{prompts}": told.tolist()}, return_tensors="pt")
            torch.testing.assert_close(sample["pixel_values"], wanted["pixel_values"][0])
            torch.testing.assert_close(sample[f"input_{prompts}"], wanted[f"input_{prompts}"][0].float())
            # Of perfect masks, the processor makes those that it was given.
            sizes = [wanted[key] for key in ("original_sizes", "reshaped_input_sizes") if key in wanted]
            perfect = sample["labels"][None].float() * 2 - 1
            found = ours.post_process_masks(perfect[:, :, None], *sizes)[0][:, 0]
            assert script.overlaps(found.float() - 0.5, torch.from_numpy(masks)).min() > 0.9


@pytest.mark.slow
def test_masks_get_better(scenes, tmp_path, capsys):
    found = result(capsys, options(save("sam", tmp_path / "model"), tmp_path / "run", *TRAINING, "--max_steps", "240"))
    assert found["mean_iou_before"] < 0.06
    assert found["mean_iou"] > 0.1


@pytest.mark.parametrize(("name", "own_processor"), [*((name, False) for name in THERE), *WANT_TORCHVISION])
def test_points_on_images_of_several_sizes(tmp_path, capsys, name, own_processor):
    write_coco(tmp_path / "data", train=4, val=2)
    model = save(name, tmp_path / "model", own_processor)
    training = ["--prompts", "points", "--max_steps", "2", "--per_device_train_batch_size", "2"]
    found = result(capsys, options(model, tmp_path / "run", "--dataset", str(tmp_path / "data"), *training))
    assert 0 <= found["mean_iou"] <= 1
    loaded = PeftModel.from_pretrained(AutoModelForMaskGeneration.from_pretrained(model), tmp_path / "run")
    ups = [value for key, value in loaded.named_parameters() if ".mona." in key and "up_weight" in key]
    assert ups
    assert all(value.abs().max() > 0 for value in ups), "every adapter has learnt"


def test_prompts_lie_on_their_masks():
    masks = np.zeros((2, 20, 30), dtype=bool)
    masks[0, 4:9, 10:21] = True
    masks[1, 15:, :3] = True
    assert box_prompts(masks).tolist() == [[10, 4, 21, 9], [0, 15, 3, 20]]
    assert point_prompts(masks)[0, 1] == 6.5  # the middle row is farthest from the edge
    moved = np.stack([box_prompts(masks, Random(seed)) for seed in range(50)])
    assert moved.min() >= 0
    assert (moved[..., 2] <= 30).all()
    assert (moved[..., :2] <= moved[..., 2:]).all()
    assert 0.5 < moved[:, 0, 0].std() < 2  # a tenth of eleven pixels
    for seed in range(50):
        for mask, (x, y) in zip(masks, point_prompts(masks, Random(seed)), strict=True):
            assert mask[int(y), int(x)]


def test_fewer_objects_than_others_are_filled_up():
    samples = [
        {
            "pixel_values": torch.zeros(3, 8, 8),
            "input_boxes": torch.rand(n, 4),
            "labels": torch.ones(n, 4, 4).to(torch.int8),
        }
        for n in (1, 3)
    ]
    batch = collate(samples)
    assert batch["input_boxes"].shape == (2, 3, 4)
    assert torch.equal(batch["input_boxes"][0], samples[0]["input_boxes"].expand(3, 4))
    assert (batch["labels"][0, 1:] == PADDING).all()
    assert (batch["labels"][1] == 1).all()
