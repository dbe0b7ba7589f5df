"""The blocks that can be adapted, one row of data each, those that cannot, each with its reason."""

from __future__ import annotations

from dataclasses import replace

from mona_peft.blocks.anatomy import BlockAnatomy
from mona_peft.blocks.layout import Layout

_SWIN = BlockAnatomy(
    mlp_entry="layernorm_after",
    norm="layernorm_before",
    grid_arguments=("input_dimensions",),
    mlp_branch=("mlp",),
    attention_branch="attention",
    attention_path=("attention",),
    fresh_sums=True,
)
_THREE_PART_SWIN = replace(_SWIN, mlp_branch=("intermediate", "output"))
_VIT = BlockAnatomy(
    mlp_entry="layernorm_after",
    norm="layernorm_before",
    patch_projection="patch_embeddings.projection",
    fresh_sums=True,
)
_PLAIN_VIT = replace(
    _VIT, mlp_branch=("mlp",), attention_branch="attention", attention_path=("layernorm_before", "attention")
)
_DINO = BlockAnatomy(
    mlp_entry="norm2",
    norm="norm1",
    patch_projection="patch_embeddings.projection",
    mlp_branch=("mlp", "layer_scale2"),
    attention_branch="layer_scale1",
    attention_path=("norm1", "attention"),
    fresh_sums=True,
)
_CLIP = BlockAnatomy(
    mlp_entry="layer_norm2",
    norm="layer_norm1",
    patch_projection="patch_embedding",
    mlp_branch=("mlp",),
    attention_branch="self_attn",
    attention_path=("layer_norm1", "self_attn"),
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
_PACKED = BlockAnatomy(
    mlp_entry="norm2",
    norm="norm1",
    sizes_argument="grid_thw",
    layout=Layout.NC,
    mlp_branch=("mlp",),
    attention_branch="attn",
)
_SAM = BlockAnatomy(
    mlp_entry="layer_norm2", norm="layer_norm2", layout=Layout.BHWC, mlp_branch=("mlp",), fresh_sums=True
)
_CONVNEXT = BlockAnatomy(mlp_entry=None, norm="layernorm", layout=Layout.BCHW, fresh_sums=True)
_TIMM_SWIN = BlockAnatomy(mlp_entry="norm2", norm="norm1", layout=Layout.BHWC, mlp_entry_layout=Layout.BNC)
_TIMM_VIT = BlockAnatomy(mlp_entry="norm2", norm="norm1", patch_projection="patch_embed.proj")
_OPEN_CLIP = BlockAnatomy(
    mlp_entry="ln_2",
    norm="ln_1",
    patch_projection="conv1",
    tower="VisionTransformer",
    samples_first="batch_first",
    mlp_branch=("mlp", "ls_2"),
    attention_branch="ls_1",
)


def _residual(norm: str) -> BlockAnatomy:
    """Return the anatomy of a block of a convolutional net with one residual, whose last norm is `norm`."""
    return BlockAnatomy(mlp_entry=None, norm=norm, layout=Layout.BCHW)


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
    "ViTMSNLayer": _PLAIN_VIT,
    "VitPoseBackboneLayer": _PLAIN_VIT,
    "PixioLayer": _PLAIN_VIT,
    "InternVLVisionLayer": _VIT,
    "Dinov2Layer": _DINO,
    "Dinov2WithRegistersLayer": _DINO,
    "DINOv3ViTLayer": replace(_DINO, patch_projection="patch_embeddings"),
    "EomtLayer": _DINO,
    "EomtDinov3Layer": replace(_DINO, patch_projection="patch_embeddings"),
    # Each window of an image is a sample. Of images that are not square, stock RF-DETR mixes up the places itself.
    "RfDetrDinov2Layer": replace(_DINO, windows_a_side="num_windows"),
    "LwDetrViTLayer": replace(
        _VIT, patch_projection="embeddings.projection", windows_a_side="attention.config.num_windows_side"
    ),
    "CLIPEncoderLayer": _CLIP,
    "MetaClip2EncoderLayer": _CLIP,
    "CLIPSegEncoderLayer": _CLIP,
    "AltCLIPEncoderLayer": _CLIP,
    "ChineseCLIPVisionLayer": _CLIP,
    "SiglipEncoderLayer": _CLIP,
    "OwlViTEncoderLayer": _CLIP,
    "Owlv2EncoderLayer": _CLIP,
    "BlipEncoderLayer": _CLIP,
    # Of NaFlex: images of differing sizes, padded to one length.
    "Siglip2EncoderLayer": replace(_CLIP, patch_projection=None, sizes_argument="spatial_shapes"),
    **dict.fromkeys(
        ("Idefics2EncoderLayer", "Idefics3EncoderLayer", "SmolVLMEncoderLayer"),
        replace(_CLIP, patch_projection=None, sizes_argument="patch_attention_mask"),
    ),
    # Vision towers of language models: all images of a batch in one sequence.
    **dict.fromkeys(
        (
            "Qwen2VLVisionBlock",
            "Qwen2_5_VLVisionBlock",
            "Qwen2_5OmniVisionBlock",
            "Qwen3VLVisionBlock",
            "Qwen3VLMoeVisionBlock",
            "Qwen3_5VisionBlock",
            "Qwen3_5MoeVisionBlock",
            "Qwen3OmniMoeVisionBlock",
            "Glm4vVisionBlock",
            "Glm4vMoeVisionBlock",
        ),
        _PACKED,
    ),
    # A video: adapters see each frame by itself.
    "VideoMAELayer": _VIT,
    "VJEPA2Layer": BlockAnatomy(
        mlp_entry="norm2",
        norm="norm1",
        patch_projection="patch_embeddings.proj",
        mlp_branch=("mlp",),
        attention_branch="attention",
        fresh_sums=True,
    ),
    "Aimv2EncoderLayer": BlockAnatomy(
        mlp_entry="rms_norm2",
        norm="rms_norm1",
        patch_projection="patch_embed",
        mlp_branch=("ffn",),
        attention_branch="attention",
        fresh_sums=True,
    ),
    "SegformerLayer": BlockAnatomy(
        mlp_entry="layernorm_after",
        norm="layernorm_before",
        grid_arguments=("height", "width"),
        mlp_branch=("mlp",),
        attention_branch="attention",
        fresh_sums=True,
    ),
    "PvtLayer": _PVT,
    "PvtV2BlockLayer": _PVT,
    "SamVisionLayer": _SAM,
    "SamHQVisionLayer": _SAM,
    "Sam2MultiScaleBlock": _SAM,
    "Sam3ViTLayer": _SAM,
    "VitDetLayer": BlockAnatomy(
        mlp_entry="norm2",
        norm="norm1",
        layout=Layout.BCHW,
        mlp_entry_layout=Layout.BHWC,
        mlp_exit="residual",
        fresh_sums=True,
    ),
    "FocalNetLayer": BlockAnatomy(
        mlp_entry="norm2",
        norm="norm1",
        grid_arguments=("input_dimensions",),
        post_norm_flag="use_post_layernorm",
        post_norm_mlp_entry="mlp",
        fresh_sums=True,
    ),
    # Its first block of a stage pools and widens the tokens before the MLP branch, hence the second norm.
    "HieraLayer": BlockAnatomy(
        mlp_entry="layernorm_after",
        norm="layernorm_after",
        patch_projection="patch_embeddings.projection",
        unroll_schedule="schedule",
        fresh_sums=True,
    ),
    "ConvNextLayer": _CONVNEXT,
    "ConvNextV2Layer": _CONVNEXT,
    "DINOv3ConvNextLayer": replace(_CONVNEXT, norm="layer_norm"),
    "ResNetBasicLayer": _residual("layer.1.normalization"),
    "ResNetBottleNeckLayer": _residual("layer.2.normalization"),
    "RTDetrResNetBasicLayer": _residual("layer.1.normalization"),
    "RTDetrResNetBottleNeckLayer": _residual("layer.2.normalization"),
    "RegNetXLayer": _residual("layer.2.normalization"),
    "RegNetYLayer": _residual("layer.3.normalization"),
    "HGNetV2BasicLayer": _residual("aggregation.1.normalization"),
    "timm.models.swin_transformer.SwinTransformerBlock": _TIMM_SWIN,
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": replace(_TIMM_SWIN, mlp_entry="mlp"),
    "timm.models.vision_transformer.Block": _TIMM_VIT,
    "timm.models.eva.EvaBlock": _TIMM_VIT,
    "timm.models.convnext.ConvNeXtBlock": replace(_CONVNEXT, norm="norm"),
    "timm.models.resnet.BasicBlock": _residual("bn2"),
    "timm.models.resnet.Bottleneck": _residual("bn3"),
    "timm.models.regnet.Bottleneck": _residual("conv3.bn"),
    "open_clip.transformer.ResidualAttentionBlock": _OPEN_CLIP,
    "open_clip.transformer.CustomResidualAttentionBlock": replace(_OPEN_CLIP, attention_path=("ln_1", "attn")),
    "open_clip.modified_resnet.Bottleneck": _residual("bn3"),
}
"""Anatomy by the name of the block's class, or by its module and name where the name alone says too little."""

_FINE_TUNE_AS_VIT = (
    "it drops and shuffles tokens, so those that are left lie in no grid. For fine-tuning load the checkpoint into "
    "the plain ViT classes (`ViTModel.from_pretrained`, `ViTForImageClassification.from_pretrained`)"
)
_VIDEO = (
    "a class token stands before the frames of its video, or its tokens do not lie frame after frame. VideoMAE, "
    "V-JEPA 2 and the vision towers of Qwen, which take videos too, can be adapted"
)
REFUSED_BLOCKS: dict[str, str] = {
    "ViTMAELayer": _FINE_TUNE_AS_VIT,
    "YolosLayer": "its detection tokens come behind the grid's, where only prefix tokens in front can be told apart",
    "PixtralAttentionLayer": "the patches of images of differing sizes lie in one sequence, and it takes their sizes "
    "from the images that it is given. Vision towers that are told of sizes (Qwen, GLM-4V, SigLIP 2) can be adapted",
    **dict.fromkeys(
        (
            "TimesformerLayer",
            "VivitLayer",
            "VideoPrismLayer",
            "XCLIPVisionEncoderLayer",
        ),
        _VIDEO,
    ),
}
"""Why blocks of a class cannot be adapted, by its name."""
