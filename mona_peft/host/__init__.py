"""The block that runs with adapters: where they stand in it, and how its stock `forward` is made to meet them."""
