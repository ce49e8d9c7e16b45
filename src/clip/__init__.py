"""OpenAI's `clip`, on OneCLIP."""

from clip.clip import available_models, load, tokenize

__all__ = ["available_models", "load", "tokenize"]
