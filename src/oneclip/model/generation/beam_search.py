"""Beam search for captions.

Shapes: B images, K beams of each, T tokens, V vocabulary.
"""

import torch
from torch import Tensor

from oneclip.model.generation.kv_cache import CaptionReader
from oneclip.model.generation.sampling import exclude, penalize_repetition
from oneclip.model.generation.settings import GenerationCfg

NO_BEAM = -1e9  # score of a beam that does not exist yet


class FinishedCaptions:
    """The best `number` captions of one image that have ended."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.captions: list[tuple[float, Tensor]] = []

    def add(self, caption: Tensor, total: float, length: int) -> None:
        """Add a caption whose logits sum to `total` over `length` tokens, if its mean is among the best."""
        mean = total / length
        if len(self.captions) == self.number:
            if mean <= self.worst():
                return
            scores = [score for score, _ in self.captions]
            del self.captions[scores.index(min(scores))]
        self.captions.append((mean, caption))

    def worst(self) -> float:
        """Return the score of the worst caption."""
        return min(score for score, _ in self.captions)

    def is_complete(self, best_total: float, length: int) -> bool:
        """Return True if there are enough captions, and the best open one is not better than the worst of them."""
        return len(self.captions) == self.number and self.worst() >= best_total / length

    def best(self) -> Tensor:
        """Return the best caption; of equal ones, the last that was found."""
        return max(reversed(self.captions), key=lambda caption: caption[0])[1]


def beam_search(reader: CaptionReader, ids: Tensor, cfg: GenerationCfg, window: int) -> Tensor:
    """Keep the best partial captions of each image and extend them, until none can become better.

    A caption is scored by the mean of its logits, not of log-probabilities, as published models were evaluated. Groups
    of beams (Vijayakumar et al. 2016) differ by a penalty for the choices of earlier groups; the published search has
    no penalty, so all its groups find the same captions, and only one group is run.

    Args:
        ids: (B, T) the prompts.
        window: how many of the last tokens are read.

    Returns:
        (B, T') the best caption of each image, filled up with `pad_id` behind its end.
    """
    images, beams = ids.shape[0], cfg.num_beams // cfg.num_beam_groups
    ids = ids.repeat_interleave(beams, dim=0)  # (BK, T)
    totals = torch.full((images, beams), NO_BEAM, dtype=torch.float32, device=ids.device)
    totals[:, 0] = 0  # all beams start with the same prompt: one of them counts
    finished = [FinishedCaptions(beams) for _ in range(images)]
    done = [False] * images
    while True:
        logits = reader.logits(ids[:, -window:])
        if ids.shape[1] < cfg.min_seq_len:
            logits = exclude(logits, cfg.eos_ids)
        logits = penalize_repetition(logits, ids, cfg.repetition_penalty)
        reached = (logits + totals.view(-1, 1)).view(images, -1)  # (B, KV)
        # enough to continue all beams even if every end of text is among the candidates
        candidates = min((1 + len(cfg.eos_ids)) * beams, reached.shape[1])
        best, index = reached.topk(candidates, dim=1)
        sources, tokens = index // logits.shape[1], index % logits.shape[1]
        rows, next_tokens, totals = _extend_beams(ids, (best, sources, tokens), finished, done, beams, cfg)
        ids = torch.cat([ids[rows], next_tokens[:, None]], dim=1)
        reader.reorder(rows)
        if all(done) or cfg.stops(ids, window):
            break
    for image in range(images):
        if not done[image]:
            for beam, total in enumerate(totals[image].tolist()):
                finished[image].add(ids[image * beams + beam], total, ids.shape[1])
    return _stack_captions([captions.best() for captions in finished], cfg)


def _extend_beams(
    ids: Tensor,
    candidates: tuple[Tensor, Tensor, Tensor],
    finished: list[FinishedCaptions],
    done: list[bool],
    beams: int,
    cfg: GenerationCfg,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose which rows (BK,) continue, with which tokens (BK,) and which new totals (B, K).

    Captions that end are added to `finished`; `done` is set for images that have enough captions.
    """
    length, device = ids.shape[1] + 1, ids.device
    rows = torch.arange(len(ids)).view(-1, beams).tolist()
    tokens = [[cfg.pad_id] * beams for _ in rows]
    totals = [[NO_BEAM] * beams for _ in rows]
    best, sources, chosen = (values.tolist() for values in candidates)
    for image in range(len(rows)):
        if done[image]:
            continue
        beam = 0
        ranked = zip(best[image], sources[image], chosen[image], strict=True)
        for place, (total, source, token) in enumerate(ranked):
            row = image * beams + source
            if token in cfg.eos_ids:
                if place < beams:  # an end that is not among the best is ignored
                    finished[image].add(ids[row], total, length)
                continue
            rows[image][beam], tokens[image][beam], totals[image][beam] = row, token, total
            beam += 1
            if beam == beams:
                break
        done[image] = finished[image].is_complete(best[image][0], length)
    next_rows, next_tokens = (torch.tensor(values, device=device).flatten() for values in (rows, tokens))
    return next_rows, next_tokens, torch.tensor(totals, dtype=torch.float32, device=device)


def _stack_captions(captions: list[Tensor], cfg: GenerationCfg) -> Tensor:
    """Stack captions (T,), each with its end of text if there is room, filled up with `pad_id`."""
    length = max(map(len, captions)) + 1
    if cfg.longest is not None:
        length = min(length, cfg.longest)
    if cfg.fixed_output_length:
        length = max(length, cfg.seq_len)
    ids = torch.full((len(captions), length), cfg.pad_id, device=captions[0].device)
    for row, caption in zip(ids, captions, strict=True):
        row[: len(caption)] = caption
        if len(caption) < length:
            row[len(caption)] = cfg.eos_ids[0]
    return ids
