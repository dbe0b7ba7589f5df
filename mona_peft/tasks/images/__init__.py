"""Images: files, datasets, augmentation, and those with a label each."""
