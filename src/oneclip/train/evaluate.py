"""Held-out pairs of a table to the `evaluate` hook of a `Trainer`; what is measured is `oneclip.evaluate.Retrieval`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from oneclip import evaluate
from oneclip.errors import ConfigError
from oneclip.evaluate import recall_at_k
from oneclip.image import Preprocess
from oneclip.pairs import Pairs
from oneclip.train.batches import Prepare
from oneclip.train.precision import computing_in

__all__ = ["HeldOut", "recall_at_k"]


class HeldOut(evaluate.HeldOut):
    """Retrieval over the pairs of a table, by what the trainer has.

    Args:
        pairs: the rows.
        folder: what relative paths are relative to.
        preprocess: one picture to one tensor, as after training.
        prepare: what the trainer has.
        batch_size: of the towers, and of the loss.
        at: the k of the recalls.
        device: where the model is.
        precision: of the towers; similarities are computed in fp32.
        max_pixels: pictures of more are skipped.
        skip_missing: likewise files that are not there, instead of raising.
    """

    def __init__(
        self,
        pairs: Pairs,
        folder: str | Path,
        preprocess: Preprocess,
        prepare: Prepare,
        *,
        batch_size: int = 64,
        at: Sequence[int] = (1, 5, 10),
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        max_pixels: int | None = None,
        skip_missing: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is at least 1; found {batch_size}")
        if prepare.tokenize is None:
            raise ConfigError("held-out captions need a tokenizer: give one to Prepare")
        task = evaluate.Retrieval.of_pairs(pairs, folder, at=at, skip_missing=skip_missing)
        super().__init__(
            task,
            preprocess,
            prepare.tokenize,
            pad_id=prepare.pad_id,
            batch_size=batch_size,
            device=device,
            computing=partial(computing_in, precision, torch.device(device)),
            max_pixels=max_pixels,
        )
