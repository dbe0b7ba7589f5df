"""The blocks that can be adapted, one row of data each, those that cannot, each with its reason, and their look-up."""

from __future__ import annotations

import inspect
from dataclasses import replace

from torch import nn

from mona_peft.blocks.anatomy import BlockAnatomy
from mona_peft.blocks.layout import Layout

_SWIN = BlockAnatomy(
    mlp_entry="layernorm_after",
    norm="layernorm_before",
    grid_arguments=("input_dimensions",),
    mlp_branch=("mlp",),
    attention_branch="attention",
    fresh_sums=True,
)
_THREE_PART_SWIN = replace(_SWIN, mlp_branch=("intermediate", "output"))
_VIT = BlockAnatomy(
    mlp_entry="layernorm_after",
    norm="layernorm_before",
    patch_projection="patch_embeddings.projection",
    fresh_sums=True,
)
_PLAIN_VIT = replace(_VIT, mlp_branch=("mlp",), attention_branch="attention")
_DINO = BlockAnatomy(
    mlp_entry="norm2",
    norm="norm1",
    patch_projection="patch_embeddings.projection",
    mlp_branch=("mlp", "layer_scale2"),
    attention_branch="layer_scale1",
    fresh_sums=True,
)
_CLIP = BlockAnatomy(
    mlp_entry="layer_norm2",
    norm="layer_norm1",
    patch_projection="patch_embedding",
    vision_config="self_attn.config",
    mlp_branch=("mlp",),
    attention_branch="self_attn",
    fresh_sums=True,
)
_PVT = BlockAnatomy(
    mlp_entry="layer_norm_2",
    norm="layer_norm_1",
    grid_arguments=("height", "width"),
    mlp_branch=("mlp",),
    attention_branch="attention",
    fresh_sums=True,
)
_CONVNEXT = BlockAnatomy(mlp_entry=None, norm="layernorm", layout=Layout.BCHW)
_TIMM_SWIN = BlockAnatomy(mlp_entry="norm2", norm="norm1", layout=Layout.BHWC, mlp_entry_layout=Layout.BNC)
_TIMM_VIT = BlockAnatomy(mlp_entry="norm2", norm="norm1", patch_projection="patch_embed.proj")

KNOWN_BLOCKS: dict[str, BlockAnatomy] = {
    "SwinLayer": _SWIN,
    # Each of its branches ends with its norm.
    "Swinv2Layer": replace(
        _SWIN,
        mlp_entry="intermediate",
        mlp_branch=("output", "layernorm_after"),
        attention_branch="layernorm_before",
    ),
    "MaskFormerSwinLayer": _THREE_PART_SWIN,
    "DonutSwinLayer": _THREE_PART_SWIN,
    "ViTLayer": _PLAIN_VIT,
    "DeiTLayer": _PLAIN_VIT,
    "BeitLayer": _VIT,
    "Data2VecVisionLayer": _VIT,
    "IJepaLayer": _PLAIN_VIT,
    "DPTViTLayer": _VIT,
    "Dinov2Layer": _DINO,
    "Dinov2WithRegistersLayer": _DINO,
    "DINOv3ViTLayer": replace(_DINO, patch_projection="patch_embeddings"),
    "EomtLayer": _DINO,
    "EomtDinov3Layer": replace(_DINO, patch_projection="patch_embeddings"),
    "CLIPEncoderLayer": _CLIP,
    "SiglipEncoderLayer": _CLIP,
    "SegformerLayer": BlockAnatomy(
        mlp_entry="layernorm_after",
        norm="layernorm_before",
        grid_arguments=("height", "width"),
        mlp_branch=("mlp",),
        attention_branch="attention",
    ),
    "PvtLayer": _PVT,
    "PvtV2BlockLayer": _PVT,
    "SamVisionLayer": BlockAnatomy(mlp_entry="layer_norm2", norm="layer_norm1", layout=Layout.BHWC),
    "VitDetLayer": BlockAnatomy(
        mlp_entry="norm2", norm="norm1", layout=Layout.BCHW, mlp_entry_layout=Layout.BHWC, mlp_exit="residual"
    ),
    "FocalNetLayer": BlockAnatomy(
        mlp_entry="norm2",
        norm="norm1",
        grid_arguments=("input_dimensions",),
        post_norm_flag="use_post_layernorm",
        post_norm_mlp_entry="mlp",
    ),
    # Its first block of a stage pools and widens the tokens before the MLP branch, hence the second norm.
    "HieraLayer": BlockAnatomy(
        mlp_entry="layernorm_after",
        norm="layernorm_after",
        patch_projection="patch_embeddings.projection",
        unroll_schedule="schedule",
    ),
    "ConvNextLayer": _CONVNEXT,
    "ConvNextV2Layer": _CONVNEXT,
    "DINOv3ConvNextLayer": replace(_CONVNEXT, norm="layer_norm"),
    "timm.models.swin_transformer.SwinTransformerBlock": _TIMM_SWIN,
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": replace(_TIMM_SWIN, mlp_entry="mlp"),
    "timm.models.vision_transformer.Block": _TIMM_VIT,
    "timm.models.eva.EvaBlock": _TIMM_VIT,
    "timm.models.convnext.ConvNeXtBlock": replace(_CONVNEXT, norm="norm"),
}
"""Anatomy by the name of the block's class, or by its module and name where the name alone says too little."""
_BUILT_IN = dict(KNOWN_BLOCKS)

_FINE_TUNE_AS_VIT = (
    "it drops and shuffles tokens, so those that are left lie in no grid. For fine-tuning load the checkpoint into "
    "the plain ViT classes (`ViTModel.from_pretrained`, `ViTForImageClassification.from_pretrained`)"
)
REFUSED_BLOCKS: dict[str, str] = {
    "ViTMAELayer": _FINE_TUNE_AS_VIT,
    "YolosLayer": "its detection tokens come behind the grid's, where only prefix tokens in front can be told apart",
    "Siglip2EncoderLayer": "its images of differing sizes are padded to one length (NaFlex), so no grid holds for a "
    "batch. SigLIP 2 checkpoints of fixed resolution load into the Siglip classes, which can be adapted",
}
"""Why blocks of a class cannot be adapted, by its name."""


def register_block(class_name: str, anatomy: BlockAnatomy) -> None:
    """Make the blocks of a further backbone known.

    Args:
        class_name: Name of the block's class, or its module and name (`"timm.models.eva.EvaBlock"`).
        anatomy: Its anatomy; checked against each block when an adapter is attached.
    """
    KNOWN_BLOCKS[class_name] = anatomy


def _row(block: nn.Module) -> str | None:
    """Return the key of the row for `block`; subclasses of a known block are known too."""
    names = (name for cls in type(block).__mro__ for name in (f"{cls.__module__}.{cls.__qualname__}", cls.__name__))
    return next((name for name in names if name in KNOWN_BLOCKS), None)


def _runs_known_forward(block: nn.Module, class_name: str) -> bool:
    """Whether the `forward` of a block is that of the class which the row `class_name` was written for.

    A subclass, and another library's class of the same name, may skip a branch or use a sum once more.
    """
    known = next(
        cls for cls in type(block).__mro__ if class_name in (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
    )
    if KNOWN_BLOCKS[class_name] is _BUILT_IN.get(class_name) and not known.__module__.startswith("transformers."):
        return False
    # transformers wraps `forward` anew in each subclass of a block.
    return inspect.unwrap(type(block).forward) is inspect.unwrap(known.forward)


def is_known_block(module: nn.Module) -> bool:
    """Whether `module` is a block whose anatomy is known and that belongs to a vision backbone."""
    row = _row(module)
    if row is None or KNOWN_BLOCKS[row].vision_config is None:
        return row is not None
    config = module
    for name in KNOWN_BLOCKS[row].vision_config.split("."):
        config = getattr(config, name, None)
    return type(config).__name__.endswith("VisionConfig")


def refusals(model: nn.Module) -> dict[str, str]:
    """Return, by class name, why blocks of `model` cannot be adapted."""
    names = {type(module).__name__ for module in model.modules()}
    return {name: reason for name, reason in REFUSED_BLOCKS.items() if name in names}


def anatomy_of(block: nn.Module) -> BlockAnatomy:
    """Return the anatomy of a known block, checked against this very block.

    What depends on the block is settled: `post_norm_flag` has chosen `mlp_entry`, `mlp_exit` is there or None.

    Raises:
        ValueError: If a submodule that the anatomy names does not exist.
    """
    class_name = _row(block)
    anatomy = KNOWN_BLOCKS[class_name]
    if anatomy.fresh_sums and not _runs_known_forward(block, class_name):
        anatomy = replace(anatomy, fresh_sums=False)
    if anatomy.post_norm_flag is not None and getattr(block, anatomy.post_norm_flag):
        anatomy = replace(anatomy, mlp_entry=anatomy.post_norm_mlp_entry)
    if anatomy.mlp_exit is not None and not hasattr(block, anatomy.mlp_exit):
        anatomy = replace(anatomy, mlp_exit=None)
    for field in ("mlp_entry", "norm"):
        name = getattr(anatomy, field)
        if name is not None and _submodule(block, name) is None:
            children = [child for child, _ in block.named_children()]
            raise ValueError(
                f"The anatomy of {class_name} says {field}={name!r}, but this block has no such submodule. It has "
                f"{children}. Register the right one: `mona_peft.register_block({class_name!r}, BlockAnatomy(...))`."
            )
    return anatomy


def check_mlp_branch(block: nn.Module) -> None:
    """Check that the MLP branch of a known block is known too.

    Raises:
        ValueError: If it is not, or names a submodule that does not exist.
    """
    anatomy = anatomy_of(block)
    missing = [name for name in anatomy.mlp_branch if _submodule(block, name) is None]
    if missing or not anatomy.mlp_branch:
        raise ValueError(
            f"recompute_mlp=True: the anatomy of {type(block).__name__} says mlp_branch={anatomy.mlp_branch!r}, which "
            f"{f'this block lacks {missing} of' if missing else 'names nothing'}. Leave recompute_mlp out, or register "
            "the block with the names of the submodules of its MLP branch: "
            "`mona_peft.register_block(..., BlockAnatomy(mlp_branch=(...)))`."
        )


def norm_of(block: nn.Module) -> nn.Module:
    """Return the norm of a known block that tells its width, device and type."""
    return block.get_submodule(anatomy_of(block).norm)


def width_of(block: nn.Module) -> int:
    """Return the number of channels C of a known block."""
    return norm_of(block).weight.shape[0]


def _submodule(block: nn.Module, name: str) -> nn.Module | None:
    try:
        return block.get_submodule(name)
    except AttributeError:
        return None
