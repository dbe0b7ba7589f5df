"""Vision towers of models of images and text."""

from __future__ import annotations

import transformers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests import naive_blocks as naive
from tests import tiny_configs as tiny
from tests.backbones.row import Backbone

TOWERS: dict[str, Backbone] = {
    "clip": Backbone(
        "CLIP vision",
        lambda: CLIPVisionModel(CLIPVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("CLIP ViT-B/16", lambda: CLIPVisionModel(CLIPVisionConfig(patch_size=16))),
        prefix=1,
        arguments=tiny.INTERPOLATE,
    ),
    "siglip": Backbone(
        "SigLIP, SigLIP 2 vision",
        lambda: SiglipVisionModel(SiglipVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("SigLIP ViT-B/16", lambda: SiglipVisionModel(SiglipVisionConfig(vision_use_head=False))),
        arguments=tiny.INTERPOLATE,
    ),
    "metaclip-2": Backbone(
        "MetaCLIP 2 vision",
        lambda: transformers.MetaClip2VisionModel(transformers.MetaClip2VisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("MetaCLIP 2 ViT-B/32", lambda: transformers.MetaClip2VisionModel(transformers.MetaClip2VisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="MetaClip2VisionModel",
    ),
    "clipseg": Backbone(
        "CLIPSeg vision",
        lambda: transformers.CLIPSegVisionModel(transformers.CLIPSegVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("CLIPSeg ViT-B/32", lambda: transformers.CLIPSegVisionModel(transformers.CLIPSegVisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="CLIPSegVisionModel",
    ),
    "altclip": Backbone(
        "AltCLIP vision",
        lambda: transformers.AltCLIPVisionModel(transformers.AltCLIPVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("AltCLIP ViT-B/32", lambda: transformers.AltCLIPVisionModel(transformers.AltCLIPVisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="AltCLIPVisionModel",
    ),
    "chinese-clip": Backbone(
        "Chinese-CLIP vision",
        lambda: transformers.ChineseCLIPVisionModel(transformers.ChineseCLIPVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("Chinese-CLIP ViT-B/32", lambda: transformers.ChineseCLIPVisionModel(transformers.ChineseCLIPVisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="ChineseCLIPVisionModel",
    ),
    "blip": Backbone(
        "BLIP vision",
        lambda: transformers.BlipVisionModel(transformers.BlipVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("BLIP ViT-B/16", lambda: transformers.BlipVisionModel(transformers.BlipVisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="BlipVisionModel",
    ),
    "owlvit": Backbone(
        "OWL-ViT vision",
        lambda: transformers.OwlViTVisionModel(transformers.OwlViTVisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("OWL-ViT ViT-B/32", lambda: transformers.OwlViTVisionModel(transformers.OwlViTVisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="OwlViTVisionModel",
    ),
    "owlv2": Backbone(
        "OWLv2 vision",
        lambda: transformers.Owlv2VisionModel(transformers.Owlv2VisionConfig(**tiny.CLIP)),
        naive.CLIP,
        (8,) * 3,
        ("OWLv2 ViT-B/16", lambda: transformers.Owlv2VisionModel(transformers.Owlv2VisionConfig())),
        prefix=1,
        arguments=tiny.INTERPOLATE,
        requires="Owlv2VisionModel",
    ),
    "internvl": Backbone(
        "InternVL vision",
        lambda: transformers.InternVLVisionModel(transformers.InternVLVisionConfig(**tiny.INTERNVL)),
        naive.INTERNVL,
        (8,) * 3,
        ("InternViT-300M", lambda: transformers.InternVLVisionModel(transformers.InternVLVisionConfig())),
        prefix=1,
        requires="InternVLVisionModel",
    ),
    "aimv2": Backbone(
        "AIMv2 vision",
        lambda: transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**tiny.CLIP, is_native=True)),
        naive.AIMV2,
        (8,) * 3,
        ("AIMv2-L/14", lambda: transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig())),
        requires="Aimv2VisionModel",
    ),
}
