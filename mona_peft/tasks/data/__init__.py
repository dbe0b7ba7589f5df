"""What a user has, files or sets of a hub, as checked and augmented datasets of the four tasks."""
