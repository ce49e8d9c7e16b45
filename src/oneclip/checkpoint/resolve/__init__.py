"""Determine the configuration, preprocessing and tokenizer of a checkpoint."""
