"""transformers' pipelines take a `PeftModel`, and say that they do not."""

TASKS = ("image-classification", "image-segmentation", "object-detection")


def accept_adapters_in_pipelines() -> None:
    """Enters `PeftModel` among the models of vision pipelines, which work with it and log an error all the same."""
    from transformers.pipelines import base  # not before there is such a model

    supported = getattr(base, "SUPPORTED_PEFT_TASKS", {})
    for task in TASKS:
        names = supported.setdefault(task, [])
        if "PeftModel" not in names:
            names.append("PeftModel")
