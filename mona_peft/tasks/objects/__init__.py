"""Images with objects: formats of files and hubs, what models take, losses, metrics and pictures."""
