"""Images with class maps: where they come from, their checks, and the datasets of models."""
