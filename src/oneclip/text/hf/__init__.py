"""Tokenizers that are read from Hugging Face repositories and folders, without transformers."""
