"""Names that are others in other releases of transformers."""

from transformers import TrainingArguments

CHECKPOINTING = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, n))
"""Argument of `TrainingArguments`; from 5.23 on the first, and the second is deprecated."""
