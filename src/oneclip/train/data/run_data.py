"""Data of a run: the training pairs and the held-out data that its settings name."""

from __future__ import annotations

from oneclip.config.run import RunCfg
from oneclip.config.training import TrainCfg
from oneclip.evaluate import read_templates
from oneclip.image import Augment, AugmentCfg
from oneclip.train.data import BatchLoader, PairDataset, open_dataset
from oneclip.train.distributed.world import World
from oneclip.train.evaluation import EvaluationHook, held_out_evaluation, open_eval_task
from oneclip.train.initial_model import InitialModel


class RunData:
    """The data of a run. It is opened and checked at construction, before anything that takes long.

    Attributes:
        dataset: the training pairs.

    Raises:
        DataError: if the data cannot be used.
        ConfigError: if only some of several sources have weights, or an augmentation is out of range.
    """

    def __init__(self, cfg: RunCfg) -> None:
        self._cfg = cfg
        self.dataset: PairDataset = open_dataset(
            cfg.sources,
            images=cfg.images,
            image_column=cfg.image_column,
            caption_column=cfg.caption_column,
            separator=cfg.delimiter,
            split=cfg.split,
            skip_missing=cfg.skip_missing,
            by_image=cfg.by_image,
            templates=read_templates(cfg.templates),
        )
        self._augment = AugmentCfg(
            cfg.crop_scale,
            cfg.crop_ratio,
            cfg.color_jitter,
            cfg.color_jitter_prob if cfg.color_jitter is not None else 0.0,
            cfg.gray_scale_prob,
        )
        self._task = open_eval_task(cfg) if cfg.eval_data is not None else None

    def loader(self, start: InitialModel, world: World) -> BatchLoader:
        """Open the loader of this process's share of each batch."""
        cfg = self._cfg
        return BatchLoader(
            self.dataset,
            cfg.batch_size,
            Augment(start.preprocess_cfg, self._augment),
            rank=world.rank,
            world_size=world.size,
            seed=cfg.seed,
            threads=cfg.threads,
            workers=cfg.workers,
            max_bad_fraction=cfg.max_bad_fraction,
            **cfg.image_options,
        )

    def held_out(self, start: InitialModel, train_cfg: TrainCfg, world: World) -> EvaluationHook | None:
        """Return the hook that evaluates the model during training; None without held-out data."""
        return (
            held_out_evaluation(self._task, start, self._cfg, train_cfg, world)
            if self._task is not None
            else None
        )
