"""How each task is trained: one module a task, with the functions that it hands to `train`."""
