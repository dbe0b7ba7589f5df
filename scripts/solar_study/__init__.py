"""Ways to fine-tune a real DINOv2-small on a few hundred real images of solar cells, compared."""
