"""What a person reads of a run: plots, pictures, pages and the model card."""
