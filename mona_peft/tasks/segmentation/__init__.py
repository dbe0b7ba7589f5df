"""Images with class maps: reading, what models take, metrics and pictures."""
