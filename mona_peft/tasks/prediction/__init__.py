"""A trained model used on images: from files and folders to predictions, masks and pictures of what was found."""
