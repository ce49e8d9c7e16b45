"""The settings of a run to what it learns from and what it is held against."""

from __future__ import annotations

from oneclip.config.run import RunCfg
from oneclip.config.training import TrainCfg
from oneclip.evaluate import read_templates
from oneclip.image import Augment, AugmentCfg
from oneclip.train.data import Loader, Samples, open_samples
from oneclip.train.distributed.world import World
from oneclip.train.evaluation import HeldOut, eval_task, held_out
from oneclip.train.initial_model import Start


class Inputs:
    """The data of a run, looked at when this is made: before anything that takes long.

    Attributes:
        samples: what is learnt from.

    Raises:
        DataError: if it cannot be used.
        ConfigError: if only some of several sources have weights, or an augmentation is out of its range.
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
            templates=read_templates(cfg.templates),
        )
        self._augment = AugmentCfg(
            cfg.crop_scale,
            cfg.crop_ratio,
            cfg.color_jitter,
            cfg.color_jitter_prob if cfg.color_jitter is not None else 0.0,
            cfg.gray_scale_prob,
        )
        self._task = eval_task(cfg) if cfg.eval_data is not None else None

    def loader(self, start: Start, world: World) -> Loader:
        """Batches for the model that a run starts from: this process's share of each."""
        cfg = self._cfg
        return Loader(
            self.samples,
            cfg.batch_size,
            Augment(start.preprocess_cfg, self._augment),
            rank=world.rank,
            world_size=world.size,
            seed=cfg.seed,
            threads=cfg.threads,
            workers=cfg.workers,
            max_broken=cfg.max_broken,
            max_pixels=cfg.max_pixels,
        )

    def held_out(self, start: Start, train_cfg: TrainCfg, world: World) -> HeldOut | None:
        """What evaluates the model during training, if there is something to evaluate it on."""
        return held_out(self._task, start, self._cfg, train_cfg, world) if self._task is not None else None
