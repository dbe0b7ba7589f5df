"""Adapts a model for instance segmentation, Mask2Former or MaskFormer, with Mona, on transformers' Trainer.

Without arguments it trains the demonstration segmenter on scenes of handwritten digits, offline and within minutes:

    python -m scripts.train_instance_segmentation

A model of the hub, on a folder in COCO's format (annotations/instances_train2017.json, train2017/*.jpg, ...):

    python -m scripts.train_instance_segmentation --dataset FOLDER \\
        --model_name_or_path facebook/mask2former-swin-base-coco-instance --learning_rate 1e-4 --bf16 \\
        --output_dir outputs/my_instances

Or a new head around a pre-trained backbone, as in the paper: `--preset paper_instance_segmentation --dataset coco`.

The output directory then holds checkpoints (`--resume_from_checkpoint last` goes on from the newest), `metrics.json`,
`curves.png`, `predictions.png` and `adapter/`: adapter and head, the image processor, and a model card with the code
that loads them.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from PIL import Image
from transformers import BaseImageProcessor, TrainingArguments, set_seed

from scripts.common.arguments import MethodArguments, parse_arguments
from scripts.common.backbones import DenseModelArguments, load_dense_model
from scripts.common.coco_data import ObjectDataArguments, class_names, load_objects
from scripts.common.coco_evaluation import BOXES_AND_MASKS, CocoTrainer, Detections
from scripts.common.coco_objects import decode_masks
from scripts.common.image_dataset import EpochCallback
from scripts.common.instance_masks import (
    INSTANCE_AUGMENTATIONS,
    InstanceDataset,
    collate_instances,
    find_instances,
    load_instance_processor,
)
from scripts.common.methods import METHODS
from scripts.common.overlays import overlay_boxes, overlay_masks, save_panel
from scripts.common.run import adapter_dir, save_run, task_metrics
from scripts.common.run_directory import check_same_adapter, find_checkpoint
from scripts.common.schedule import MultiStepTrainer
from scripts.common.tasks import INSTANCE_SEGMENTATION
from scripts.demonstration.scene_objects import DIGIT_SCENES, digit_scenes

logger = logging.getLogger(__name__)
