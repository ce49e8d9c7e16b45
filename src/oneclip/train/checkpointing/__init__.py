"""Training checkpoints: written atomically, resumed on any number of processes."""
