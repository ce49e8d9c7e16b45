"""The settings of a run to what it learns from and what it is held against."""

from __future__ import annotations

from pathlib import Path

from oneclip.image import Augment, Preprocess
from oneclip.pairs import Pairs, read_table
from oneclip.train.config import TrainCfg
from oneclip.train.distributed import World
from oneclip.train.evaluate import HeldOut
from oneclip.train.settings import RunCfg
from oneclip.train.sources import Loader, Samples, open_samples
from oneclip.train.start import Start


class Inputs:
    """The data of a run, looked at when this is made: before anything that takes long.

    Attributes:
        samples: what is learnt from.

    Raises:
        DataError: if it cannot be used.
        ConfigError: if only some of several sources have weights.
    """

    def __init__(self, cfg: RunCfg) -> None:
        self._cfg = cfg
        self.samples: Samples = open_samples(
            cfg.sources,
            images=cfg.images,
            image_column=cfg.image_column,
            caption_column=cfg.caption_column,
            separator=cfg.delimiter,
            split=cfg.split,
            skip=cfg.skip_missing,
            by_picture=cfg.by_picture,
        )
        self._held_out = self._pairs(cfg.eval_data) if cfg.eval_data is not None else None

    def loader(self, start: Start, world: World) -> Loader:
        """Batches for the model that a run starts from: this process's share of each."""
        cfg = self._cfg
        return Loader(
            self.samples,
            cfg.batch_size,
            Augment(start.preprocess_cfg),
            rank=world.rank,
            world_size=world.size,
            seed=cfg.seed,
            threads=cfg.threads,
            workers=cfg.workers,
            max_broken=cfg.max_broken,
            max_pixels=cfg.max_pixels,
        )

    def held_out(self, start: Start, train_cfg: TrainCfg) -> HeldOut | None:
        """What evaluates the model during training, if there is something to evaluate it on."""
        cfg = self._cfg
        if self._held_out is None or cfg.eval_data is None:
            return None
        images = cfg.eval_images if cfg.eval_images is not None else cfg.images
        return HeldOut(
            self._held_out,
            Path(images) if images is not None else Path(cfg.eval_data).parent,
            Preprocess(start.preprocess_cfg),
            start.prepare,
            batch_size=cfg.batch_size,
            device=start.device,
            precision=train_cfg.precision,
            max_pixels=cfg.max_pixels,
            skip_missing=cfg.skip_missing,
        )

    def _pairs(self, table: str | Path) -> Pairs:
        cfg = self._cfg
        columns = {"image_column": cfg.image_column, "caption_column": cfg.caption_column}
        given = {name: column for name, column in columns.items() if column is not None}
        return read_table(table, separator=cfg.delimiter, **given)
