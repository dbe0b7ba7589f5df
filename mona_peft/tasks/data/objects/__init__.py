"""Images with objects: formats of files and of hubs, their checks, and the datasets of models."""
