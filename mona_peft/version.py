"""The package's version: hatchling, the model card and records read it here, so none of them needs an installation."""

__version__ = "0.1.0"
