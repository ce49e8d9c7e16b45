"""Checkpoints of a training: written whole or not at all, resumed on any number of processes."""
