"""Evaluation on held-out data during training, shared by its processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from oneclip.config.run import RunCfg
from oneclip.config.training import TrainCfg
from oneclip.errors import ClusterError, OneCLIPError
from oneclip.evaluate import EvaluationHook, FeatureExtractor, Task, open_task, read_templates, recall_at_k
from oneclip.image import ImageSource, Preprocess
from oneclip.image.prefetch import SkippedImage
from oneclip.train.autocast import autocast_to
from oneclip.train.distributed.world import World
from oneclip.train.initial_model import InitialModel

__all__ = ["DistributedExtractor", "EvaluationHook", "held_out_evaluation", "open_eval_task", "recall_at_k"]

EVAL_BATCH_SIZE = 64

Part = TypeVar("Part")


def open_eval_task(cfg: RunCfg) -> Task:
    """Open `eval_data`: a table of pairs, or a folder of classes.

    Raises:
        DataError: if it cannot be used.
    """
    assert cfg.eval_data is not None
    images = cfg.eval_images if cfg.eval_images is not None else cfg.images
    return open_task(
        cfg.eval_data,
        images=Path(images) if images is not None else None,
        separator=cfg.delimiter,
        templates=read_templates(cfg.templates),
        skip_missing=cfg.skip_missing,
        **cfg.columns,
    )


def held_out_evaluation(
    task: Task, start: InitialModel, cfg: RunCfg, train_cfg: TrainCfg, world: World
) -> EvaluationHook:
    """Make the `evaluate` hook of a `Trainer`. All processes must call it at the same steps.

    Args:
        task: the held-out data.
        start: preprocessing, tokenizer and device of the model.
        cfg: settings of the run.
        train_cfg: settings of the trainer; their micro-batch and precision are the defaults.
        world: the processes that share the work.
    """
    precision = cfg.eval_precision or train_cfg.precision
    batch_size = cfg.batch_size or EVAL_BATCH_SIZE
    return EvaluationHook(
        task,
        Preprocess(start.preprocess_cfg),
        start.tokenizer,
        pad_id=start.tokenizer.pad_token_id,
        batch_size=batch_size,
        micro_batch=cfg.eval_batch_size or train_cfg.micro_batch or max(1, batch_size // world.size),
        device=start.device,
        computing=partial(autocast_to, precision, start.device),
        shared=partial(DistributedExtractor, world=world),
        **cfg.image_options,
    )


class DistributedExtractor:
    """Feature extractor shared by processes: each encodes every n-th item, and all get all embeddings.

    Args:
        extractor: of this process, with the same weights on each.
        world: the processes. Each encodes the same items at the same time.
    """

    def __init__(self, extractor: FeatureExtractor, world: World) -> None:
        self._extractor, self._world = extractor, world
        self.batch_size = extractor.batch_size

    def encode_images(self, images: Sequence[ImageSource]) -> tuple[Tensor, list[int], list[SkippedImage]]:
        """See `FeatureExtractor`."""
        mine = range(self._world.rank, len(images), self._world.size)
        parts = self._gather(
            lambda: self._extractor.encode_images([images[i] for i in mine]) if mine else None
        )
        found, indices, skipped = [], [], []
        for rank, part in parts:
            features, kept, left_out = part
            indices += [rank + i * self._world.size for i in kept]
            skipped += left_out
            found += [features] if len(features) else []
        order = sorted(range(len(indices)), key=indices.__getitem__)
        embeddings = torch.cat(found)[order] if found else torch.empty(0, 0)
        return embeddings, sorted(indices), skipped

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """See `FeatureExtractor`."""
        mine = texts[self._world.rank :: self._world.size]
        parts = self._gather(lambda: self._extractor.encode_texts(mine) if mine else None)
        if not parts:
            return torch.empty(0, 0)
        embeddings: Tensor = parts[0][1].new_empty(len(texts), parts[0][1].shape[1])
        for rank, part in parts:
            embeddings[rank :: self._world.size] = part
        return embeddings

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        """See `FeatureExtractor`."""
        return self._extractor.logit_scale_and_bias()

    def _gather(self, encode: Callable[[], Part | None]) -> list[tuple[int, Any]]:
        """Gather the results of all processes, with their ranks.

        Raises:
            OneCLIPError: on all processes, if one of them raised an error.
        """
        result: Part | None = None
        problem: OneCLIPError | None = None
        try:
            result = encode()
        except OneCLIPError as error:
            problem = error
        gathered = self._world.gather((result, str(problem) if problem is not None else None))
        if problem is not None:
            raise problem
        for rank, (_, text) in enumerate(gathered):
            if text is not None:
                raise ClusterError(f"process {self._world.rank} stops because process {rank} failed: {text}")
        return [(rank, part) for rank, (part, _) in enumerate(gathered) if part is not None]
