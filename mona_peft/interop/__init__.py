"""Weights from elsewhere: checkpoints of the authors' code, and pre-trained backbones for dense models."""
