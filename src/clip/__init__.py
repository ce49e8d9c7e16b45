"""Drop-in replacement for OpenAI's `clip` package, built on OneCLIP."""

from clip.clip import available_models, load, tokenize

__all__ = ["available_models", "load", "tokenize"]
