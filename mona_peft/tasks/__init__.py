"""What the training scripts share: arguments and presets, data, metrics, methods, records, pictures and model cards."""
