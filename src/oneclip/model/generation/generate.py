"""Pictures and what their captions begin with to captions.

Shapes: B pictures, L tokens of a beginning, T tokens of a caption.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oneclip.errors import ConfigError, ShapeError, TokenRangeError
from oneclip.model.generation.beam_search import beam_search
from oneclip.model.generation.kv_cache import reader_for
from oneclip.model.generation.sampling import sample
from oneclip.model.generation.settings import Search
from oneclip.model.text import TextTransformer

if TYPE_CHECKING:
    from oneclip.model.coca import CoCa


@torch.no_grad()
def generate(model: "CoCa", image: Tensor, text: Tensor | None, search: Search) -> Tensor:
    """Write a caption for each picture; see `CoCa.generate` for arguments, result and errors."""
    prompt = _beginnings(model, image, text, search)
    window = min(search.max_seq_len, model.text_decoder.context_length)
    if isinstance(model.text, TextTransformer):
        window = min(window, model.text.context_length)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        _, image_embs = model._encode_image(image, normalize=False)
        find = beam_search if search.generation_type == "beam_search" else sample
        ids = find(reader_for(model, image_embs), prompt, search, window)
    finally:
        for module in training:
            module.training = True
    return ids[0] if text is not None and text.ndim == 1 and len(ids) == 1 else ids


def _beginnings(model: "CoCa", image: Tensor, text: Tensor | None, search: Search) -> Tensor:
    """(B, L) the ids that the captions begin with, in the vocabulary."""
    if text is None:
        prompt = torch.full((len(image), 1), search.sot_id, device=image.device)
    else:
        prompt = (text[None] if text.ndim == 1 else text).long().to(image.device)
        if prompt.ndim == 2 and len(prompt) == 1:
            prompt = prompt.expand(len(image), -1)
    if prompt.ndim != 2 or prompt.shape[1] < 1 or len(image) < 1 or len(prompt) % len(image):
        raise ShapeError(
            f"{len(image)} images need as many prompts of ids, (B, L) with L from 1 up, or one for all; found "
            f"{tuple(prompt.shape)}"
        )
    longest = search.longest
    if search.generation_type == "beam_search" and longest is not None and prompt.shape[1] >= longest:
        raise ConfigError(
            f"a beam search for captions of up to {longest} tokens cannot begin with {prompt.shape[1]}: give it a "
            "seq_len (or the max_length of its stopping criterion) that leaves room for more"
        )
    known = model.text_decoder.text_projection.shape[1]
    for name, ids, count in (
        ("the beginning", (int(prompt.min()), int(prompt.max())), model.vocab_size),
        ("eos_token_id", search.eos_ids, known),
    ):
        for token in ids:
            if not 0 <= token < count:
                raise TokenRangeError(
                    f"token id {token} in {name} is outside the vocabulary, whose ids are 0 to {count - 1}; give "
                    "sot_token_id, eos_token_id and text in the ids of the model's own tokenizer"
                )
    return prompt
