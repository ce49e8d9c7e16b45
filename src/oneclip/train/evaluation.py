"""Held-out data to the `evaluate` hook of a `Trainer`, its work shared by the processes of the training."""

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
from oneclip.evaluate import HeldOut, Subject, Task, open_task, read_templates, recall_at_k
from oneclip.image import Preprocess
from oneclip.image.prefetch import Picture, Skipped
from oneclip.train.autocast import computing_in
from oneclip.train.distributed.world import World
from oneclip.train.initial_model import Start

__all__ = ["HeldOut", "Shared", "eval_task", "held_out", "recall_at_k"]

Part = TypeVar("Part")


def eval_task(cfg: RunCfg) -> Task:
    """What `eval_data` names: a table of pairs, or a folder of classes.

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


def held_out(task: Task, start: Start, cfg: RunCfg, train_cfg: TrainCfg, world: World) -> HeldOut:
    """What evaluates a model in training; every process has to call it at the same steps.

    Args:
        task: what it is evaluated on.
        start: the model's preprocessing, tokenizer and device.
        cfg: the run.
        train_cfg: its training, whose micro-batches and precision are used unless the run says others.
        world: the processes that share the work.
    """
    precision = cfg.eval_precision or train_cfg.precision
    batch_size = cfg.batch_size or EVAL_BATCH_SIZE
    return HeldOut(
        task,
        Preprocess(start.preprocess_cfg),
        start.tokenizer,
        pad_id=start.tokenizer.pad_token_id,
        batch_size=batch_size,
        micro_batch=cfg.eval_batch_size or train_cfg.micro_batch or max(1, batch_size // world.size),
        device=start.device,
        computing=partial(computing_in, precision, start.device),
        max_pixels=cfg.max_pixels,
        shared=partial(Shared, world=world),
    )


EVAL_BATCH_SIZE = 64


class Shared:
    """A subject whose work processes share: each encodes every n-th item, and all of them get all embeddings.

    Args:
        subject: of this process; the same weights on each.
        world: the processes. Each asks for the same items at the same time.
    """

    def __init__(self, subject: Subject, world: World) -> None:
        self._subject, self._world = subject, world
        self.batch_size = subject.batch_size

    def pictures(self, pictures: Sequence[Picture]) -> tuple[Tensor, list[int], list[Skipped]]:
        """See `Subject`."""
        mine = range(self._world.rank, len(pictures), self._world.size)
        parts = self._gather(lambda: self._subject.pictures([pictures[i] for i in mine]) if mine else None)
        found, numbers, skipped = [], [], []
        for rank, part in parts:
            features, kept, left_out = part
            numbers += [rank + i * self._world.size for i in kept]
            skipped += left_out
            found += [features] if len(features) else []
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        together = torch.cat(found)[order] if found else torch.empty(0, 0)
        return together, sorted(numbers), skipped

    def captions(self, captions: Sequence[str]) -> Tensor:
        """See `Subject`."""
        mine = captions[self._world.rank :: self._world.size]
        parts = self._gather(lambda: self._subject.captions(mine) if mine else None)
        if not parts:
            return torch.empty(0, 0)
        together: Tensor = parts[0][1].new_empty(len(captions), parts[0][1].shape[1])
        for rank, part in parts:
            together[rank :: self._world.size] = part
        return together

    def temperature(self) -> tuple[float, float | None]:
        """See `Subject`."""
        return self._subject.temperature()

    def _gather(self, encode: Callable[[], Part | None]) -> list[tuple[int, Any]]:
        """What each process made, by its rank; none of them waits for one that could not.

        Raises:
            OneCLIPError: on all processes, if one of them raised it.
        """
        made: Part | None = None
        problem: OneCLIPError | None = None
        try:
            made = encode()
        except OneCLIPError as error:
            problem = error
        told = self._world.gather((made, str(problem) if problem is not None else None))
        if problem is not None:
            raise problem
        for rank, (_, text) in enumerate(told):
            if text is not None:
                raise ClusterError(f"process {self._world.rank} ends because process {rank} did: {text}")
        return [(rank, made) for rank, (made, _) in enumerate(told) if made is not None]
