"""Tokenizers from Hugging Face repositories and folders, read without transformers."""
