"""Training batches of the phases: words of the teacher, or image-caption pairs together with such words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oneclip.text import CLIPTokenizer
from oneclip.train import Batch
from recipes.pocket.batches import PocketBatches

CONTEXT = 32  # longest training caption, in tokens


class Teacher:
    """Random batches of words and phrases with their sentence embeddings.

    Args:
        path: what `recipes.pocket.teacher` wrote.
        tokenizer: captions to ids.
        seed: of the order; a batch is a function of (seed, step).
    """

    def __init__(self, path: Path, tokenizer: CLIPTokenizer, seed: int) -> None:
        stored = np.load(path, allow_pickle=False)
        self.vectors = torch.from_numpy(stored["vectors"]).float()  # (N, 384)
        ids = tokenizer([str(text) for text in stored["texts"]], context_length=24)
        self.ids = ids.to(torch.int32)  # (N, 24), longer phrases are truncated
        self.seed = seed

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Return token ids (size, 24) and vectors (size, 384)."""
        rows = np.random.default_rng((self.seed, 7, step)).integers(len(self.ids), size=size)
        return self.ids[rows].long(), self.vectors[rows]


class WordBatches:
    """Batches without images: `images` are the vectors of the teacher."""

    def __init__(self, teacher: Teacher, batch_size: int) -> None:
        self.teacher, self.batch_size = teacher, batch_size

    def batch(self, step: int) -> Batch:
        ids, vectors = self.teacher.batch(step, self.batch_size)
        return Batch(vectors, ids)


class PairBatches:
    """Batches of images with captions and words of the teacher, and optionally descriptions.

    Args:
        pairs: the images and their captions.
        teacher: the words.
        words: how many of them a batch has.
        tokenizer: captions to ids.
        described: whether `extra` holds descriptions: `description_ids`, `owners`, `also_fits`.
    """

    def __init__(
        self,
        pairs: PocketBatches,
        teacher: Teacher,
        words: int,
        tokenizer: Callable[..., Tensor],
        described: bool = False,
    ) -> None:
        self.pairs, self.teacher, self.words = pairs, teacher, words
        self.tokenizer, self.described = tokenizer, described

    def batch(self, step: int) -> Batch:
        images, texts, descriptions = self.pairs.described_batch(step)
        ids, vectors = self.teacher.batch(1_000_000 + step, self.words)
        extra = {"word_ids": ids, "word_vectors": vectors}
        if self.described:
            extra["description_ids"] = self.tokenizer(descriptions.texts, context_length=CONTEXT)
            extra |= {"owners": descriptions.owners, "also_fits": descriptions.also_fits}
        return Batch(images, texts, extra)
