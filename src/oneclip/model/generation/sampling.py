"""Sampling of captions, one random token after the other.

Shapes: R captions, T tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from oneclip.model.generation.kv_cache import CaptionReader
from oneclip.model.generation.settings import GenerationCfg


def sample(reader: CaptionReader, ids: Tensor, cfg: GenerationCfg, window: int) -> Tensor:
    """Draw each next token from the likeliest ones, until all captions have ended.

    Args:
        ids: (R, T) the prompts.
        window: how many of the last tokens are read.

    Returns:
        (R, T') with T' <= `seq_len` if T is; captions that ended earlier are filled up with `pad_id`.
    """
    while True:
        last = ids[:, -1]
        open_rows = ~(cfg.is_end(last) | (last == cfg.pad_id))
        if not open_rows.any() and not cfg.fixed_output_length:
            return ids
        token = torch.full_like(last, cfg.pad_id)
        if open_rows.any():
            if ids.shape[1] + 1 == cfg.seq_len:
                token[open_rows] = cfg.eos_ids[0]
            else:
                read = ids[:, -window:]
                logits = reader.logits(read)[open_rows]
                if ids.shape[1] < cfg.min_seq_len:
                    logits = exclude(logits, cfg.eos_ids)
                logits = penalize_repetition(logits, read[open_rows], cfg.repetition_penalty)
                token[open_rows] = draw(logits, cfg)
        ids = torch.cat([ids, token[:, None]], dim=1)
        if cfg.stops(ids, window):
            return ids


def draw(logits: Tensor, cfg: GenerationCfg) -> Tensor:
    """Draw one token (R,) for each row of logits (R, V)."""
    if cfg.generation_type == "top_k":
        logits = keep_top_k(logits, cfg.top_k)
    else:
        logits = keep_top_p(logits, cfg.top_p)
    probabilities = (logits / cfg.temperature).softmax(dim=1)
    return torch.multinomial(probabilities, 1).squeeze(1)


def exclude(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Set the logits (R, V) of some tokens to minus infinity."""
    return logits.index_fill(1, torch.tensor(list(ids), device=logits.device), float("-inf"))


def penalize_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits (R, V) of the tokens in `ids` (R, T) (Keskar et al. 2019, CTRL)."""
    if penalty == 1.0:
        return logits
    chosen = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Exclude all but the k likeliest tokens and those that are as likely as the last of them (Fan et al. 2018)."""
    least = logits.topk(min(k, logits.shape[1]), dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Exclude all but the fewest tokens that together have probability p (Holtzman et al. 2019)."""
    ascending, order = logits.sort(dim=1)
    unlikely = ascending.softmax(dim=1).cumsum(dim=1) <= 1 - p
    unlikely[:, -1] = False
    return logits.masked_fill(torch.zeros_like(unlikely).scatter(1, order, unlikely), float("-inf"))
