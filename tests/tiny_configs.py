"""Settings of tiny models, by family, with dropout and stochastic depth where the family has them."""

from tests.models import TWO_STAGES

INTERPOLATE = {"interpolate_pos_encoding": True}
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
VIT = {**SMALL, **DROPOUT, "intermediate_size": 24, "image_size": 32, "patch_size": 8}
BEIT = {**VIT, "drop_path_rate": 0.3, "layer_scale_init_value": 0.5, "use_relative_position_bias": True}
DINO = {**SMALL, "image_size": 28, "patch_size": 7, "mlp_ratio": 2, "drop_path_rate": 0.3, "layerscale_value": 0.5}
DINOV3 = {
    **SMALL,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "num_register_tokens": 3,
    "drop_path_rate": 0.3,
    "layerscale_value": 0.5,
}
CLIP = {**SMALL, "intermediate_size": 24, "image_size": 32, "patch_size": 8, "attention_dropout": 0.1}
EOMT = {**DINO, "num_blocks": 1, "num_queries": 5, "num_register_tokens": 2, "num_upscale_blocks": 1}
EOMT_DINOV3 = {**DINOV3, "num_blocks": 1, "num_queries": 5, "num_register_tokens": 2, "num_upscale_blocks": 1}
SWIN = {**TWO_STAGES, **DROPOUT, "drop_path_rate": 0.3}
PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [2, 1],
    "hidden_sizes": [16, 32],
    "sr_ratios": [2, 1],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
    "drop_path_rate": 0.3,
    **DROPOUT,
}
SEGFORMER = {**PYRAMID, "patch_sizes": [7, 3], "strides": [4, 2]}
PVT = {
    **{key: value for key, value in PYRAMID.items() if key != "sr_ratios"},
    "sequence_reduction_ratios": [2, 1],
    "patch_sizes": [4, 2],
    "strides": [4, 2],
    "image_size": 64,
}
FOCALNET = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "hidden_sizes": [16, 32],
    "depths": [2, 1],
    "focal_levels": [2, 2],
    "focal_windows": [3, 3],
    "use_layerscale": True,
    "layerscale_value": 0.5,
    "hidden_dropout_prob": 0.1,
    "drop_path_rate": 0.3,
}
HIERA = {
    "embed_dim": 8,
    "image_size": [64, 64],
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "drop_path_rate": 0.3,
}
SAM = {
    **SMALL,
    "image_size": 64,
    "patch_size": 8,
    "mlp_dim": 24,
    "output_channels": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
    "initializer_range": 0.02,
    "attention_dropout": 0.1,
    "use_rel_pos": True,
}
VITDET = {
    **SMALL,
    "mlp_ratio": 2,
    "image_size": 64,
    "pretrain_image_size": 32,
    "patch_size": 8,
    "drop_path_rate": 0.3,
    "dropout_prob": 0.1,
    "window_size": 3,
    "window_block_indices": [0],
    "residual_block_indices": [0, 2],
}
CONVNEXT = {"hidden_sizes": [16, 32], "depths": [2, 1], "num_stages": 2, "drop_path_rate": 0.3}
INTERNVL = {**CLIP, "layer_scale_init_value": 0.5}
VITPOSE = {
    **SMALL,
    "attention_probs_dropout_prob": 0.1,
    "hidden_dropout_prob": 0.1,
    "mlp_ratio": 2,
    "image_size": (32, 48),
    "patch_size": (8, 8),
}
PIXIO = {
    **SMALL,
    **DROPOUT,
    "mlp_ratio": 2,
    "image_size": 32,
    "patch_size": 8,
    "drop_path_rate": 0.3,
    "n_cls_tokens": 3,
}
RF_DETR = {
    **SMALL,
    **DROPOUT,
    "mlp_ratio": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_windows": 2,
    "drop_path_rate": 0.3,
    "layerscale_value": 0.5,
    "out_indices": [2, 3],
}
LW_DETR = {
    **SMALL,
    "mlp_ratio": 2,
    "image_size": 32,
    "pretrain_image_size": 32,
    "patch_size": 8,
    "num_windows": 4,
    "window_block_indices": [0, 2],
    "cae_init_values": 0.5,
    "dropout_prob": 0.1,
    "out_indices": [1, 3],
}
SAM2 = {
    "hidden_size": 8,
    "embed_dim_per_stage": [8, 16, 32, 64],
    "blocks_per_stage": [1, 2, 1, 1],
    "num_attention_heads_per_stage": [1, 2, 2, 2],
    "window_size_per_stage": [4, 2, 4, 2],
    "window_positional_embedding_background_size": [4, 4],
    "global_attention_blocks": [2],
}
SAM3 = {
    **SMALL,
    "intermediate_size": 24,
    "image_size": [48, 32],
    "pretrain_image_size": 32,
    "patch_size": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1]}
RESNET_BASIC = {**RESNET, "embedding_size": 16, "layer_type": "basic"}
REGNET_Y = {**RESNET, "groups_width": 8}
REGNET_X = {**REGNET_Y, "layer_type": "x"}
HGNET_V2 = {
    "embedding_size": 8,
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16],
    "stage_mid_channels": [8, 8],
    "stage_out_channels": [16, 32],
    "stage_num_blocks": [1, 2],
    "stage_numb_of_layers": [2, 2],
    "stage_downsample": [False, True],
    "stage_downsample_strides": [2, 2],
    "stage_light_block": [False, True],
    "stage_kernel_size": [3, 3],
    "hidden_sizes": [16, 32],
    "depths": [1, 2],
}
