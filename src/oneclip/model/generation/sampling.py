"""Beginnings of captions to captions, one drawn token after the other.

Shapes: R captions, T tokens.
"""

import torch
from torch import Tensor

from oneclip.model.generation.kv_cache import Reader
from oneclip.model.generation.logits_filters import keep_top_k, keep_top_p, penalise_repetition, without
from oneclip.model.generation.settings import Search


def sample(reader: Reader, ids: Tensor, search: Search, window: int) -> Tensor:
    """Draw each next token from the likeliest ones, until all captions have ended.

    Args:
        ids: (R, T) what the captions begin with.
        window: how many of the last tokens are read.

    Returns:
        (R, T') with T' <= `seq_len` if T is; what ended earlier is filled up with `pad_id`.
    """
    while True:
        last = ids[:, -1]
        open_rows = ~(search.is_end(last) | (last == search.pad_id))
        if not open_rows.any() and not search.fixed_output_length:
            return ids
        token = torch.full_like(last, search.pad_id)
        if open_rows.any():
            if ids.shape[1] + 1 == search.seq_len:
                token[open_rows] = search.eos_ids[0]
            else:
                read = ids[:, -window:]
                logits = reader.logits(read)[open_rows]
                if ids.shape[1] < search.min_seq_len:
                    logits = without(logits, search.eos_ids)
                logits = penalise_repetition(logits, read[open_rows], search.repetition_penalty)
                token[open_rows] = draw(logits, search)
        ids = torch.cat([ids, token[:, None]], dim=1)
        if search.stops(ids, window):
            return ids


def draw(logits: Tensor, search: Search) -> Tensor:
    """Logits (R, V) to one token a row, (R,)."""
    if search.generation_type == "top_k":
        logits = keep_top_k(logits, search.top_k)
    else:
        logits = keep_top_p(logits, search.top_p)
    probabilities = (logits / search.temperature).softmax(dim=1)
    return torch.multinomial(probabilities, 1).squeeze(1)
