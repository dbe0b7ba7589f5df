"""Training: arguments, recipes, the run and its directory, and `Trainer` as the tasks need it."""
