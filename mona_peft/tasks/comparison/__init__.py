"""Comparison of ways to fine-tune, each at its own best learning rate, over several seeds."""
