"""Readers of weight files, one per container; none of them can execute what a file contains."""
