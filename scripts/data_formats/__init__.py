"""Every layout of files that the loaders know, made in its real format; `python -m ...` writes the page of them."""
