"""Captions written by a CoCa token by token: beam search and sampling over cached keys and values."""

from oneclip.model.generation.generate import expand_prompt, generate
from oneclip.model.generation.settings import GenerationCfg

__all__ = ["GenerationCfg", "expand_prompt", "generate"]
