"""Beginnings of captions to the best captions found by beam search.

Shapes: B pictures, K beams of each, T tokens, V vocabulary.
"""

import torch
from torch import Tensor

from oneclip.model.generation.kv_cache import Reader
from oneclip.model.generation.logits_filters import penalise_repetition, without
from oneclip.model.generation.settings import Search

NEVER = -1e9  # the score of a beam that is not there yet


class Finished:
    """The best captions of one picture that have ended, up to a number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.captions: list[tuple[float, Tensor]] = []

    def add(self, caption: Tensor, total: float, length: int) -> None:
        """Take a caption whose logits add up to `total` over `length` tokens, if it is among the best by their mean."""
        mean = total / length
        if len(self.captions) == self.number:
            if mean <= self.worst():
                return
            scores = [score for score, _ in self.captions]
            del self.captions[scores.index(min(scores))]
        self.captions.append((mean, caption))

    def worst(self) -> float:
        """The score of the worst caption."""
        return min(score for score, _ in self.captions)

    def suffice(self, best_total: float, length: int) -> bool:
        """Whether there are enough, and the best open caption is no better than the worst of them."""
        return len(self.captions) == self.number and self.worst() >= best_total / length

    def best(self) -> Tensor:
        """The best caption; of equals, the one that was found last."""
        return max(reversed(self.captions), key=lambda caption: caption[0])[1]


def beam_search(reader: Reader, ids: Tensor, search: Search, window: int) -> Tensor:
    """Keep the best beginnings of each picture's caption and continue them, until none can become better.

    A caption is scored by the mean of its logits, not of log-probabilities, as published models were evaluated. Groups
    of beams (Vijayakumar et al. 2016) differ by a penalty for what earlier groups chose; the published search has none,
    so that all its groups find the same, and one of them is run.

    Args:
        ids: (B, T) what the captions begin with.
        window: how many of the last tokens are read.

    Returns:
        (B, T') the best caption of each picture, filled up with `pad_id` behind its end.
    """
    pictures, beams = ids.shape[0], search.num_beams // search.num_beam_groups
    ids = ids.repeat_interleave(beams, dim=0)  # (BK, T)
    totals = torch.full((pictures, beams), NEVER, dtype=torch.float32, device=ids.device)
    totals[:, 0] = 0  # all beams begin alike: one of them counts
    finished = [Finished(beams) for _ in range(pictures)]
    done = [False] * pictures
    while True:
        logits = reader.logits(ids[:, -window:])
        if ids.shape[1] < search.min_seq_len:
            logits = without(logits, search.eos_ids)
        logits = penalise_repetition(logits, ids, search.repetition_penalty)
        reached = (logits + totals.view(-1, 1)).view(pictures, -1)  # (B, KV)
        # enough that as many go on as there are beams, should every end of text be among them
        candidates = min((1 + len(search.eos_ids)) * beams, reached.shape[1])
        best, index = reached.topk(candidates, dim=1)
        sources, tokens = index // logits.shape[1], index % logits.shape[1]
        rows, next_tokens, totals = _go_on(ids, (best, sources, tokens), finished, done, beams, search)
        ids = torch.cat([ids[rows], next_tokens[:, None]], dim=1)
        reader.reorder(rows)
        if all(done) or search.stops(ids, window):
            break
    for picture in range(pictures):
        if not done[picture]:
            for beam, total in enumerate(totals[picture].tolist()):
                finished[picture].add(ids[picture * beams + beam], total, ids.shape[1])
    return _together([captions.best() for captions in finished], search)


def _go_on(
    ids: Tensor,
    candidates: tuple[Tensor, Tensor, Tensor],
    finished: list[Finished],
    done: list[bool],
    beams: int,
    search: Search,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step: which rows (BK,) go on, with which tokens (BK,), to which totals (B, K).

    What ends is put into `finished`, and which pictures have captions enough into `done`.
    """
    length, device = ids.shape[1] + 1, ids.device
    rows = torch.arange(len(ids)).view(-1, beams).tolist()
    tokens = [[search.pad_id] * beams for _ in rows]
    totals = [[NEVER] * beams for _ in rows]
    best, sources, chosen = (values.tolist() for values in candidates)
    for picture in range(len(rows)):
        if done[picture]:
            continue
        beam = 0
        ranked = zip(best[picture], sources[picture], chosen[picture], strict=True)
        for place, (total, source, token) in enumerate(ranked):
            row = picture * beams + source
            if token in search.eos_ids:
                if place < beams:  # an end that is not among the best is passed over
                    finished[picture].add(ids[row], total, length)
                continue
            rows[picture][beam], tokens[picture][beam], totals[picture][beam] = row, token, total
            beam += 1
            if beam == beams:
                break
        done[picture] = finished[picture].suffice(best[picture][0], length)
    next_rows, next_tokens = (torch.tensor(values, device=device).flatten() for values in (rows, tokens))
    return next_rows, next_tokens, torch.tensor(totals, dtype=torch.float32, device=device)


def _together(captions: list[Tensor], search: Search) -> Tensor:
    """Captions (T,) to one tensor, each with its end of text if there is room, filled up with `pad_id`."""
    length = max(map(len, captions)) + 1
    if search.longest is not None:
        length = min(length, search.longest)
    if search.fixed_output_length:
        length = max(length, search.seq_len)
    ids = torch.full((len(captions), length), search.pad_id, device=captions[0].device)
    for row, caption in zip(ids, captions, strict=True):
        row[: len(caption)] = caption
        if len(caption) < length:
            row[len(caption)] = search.eos_ids[0]
    return ids
