"""Fine-tuning run: a training with hooks that split the data, evaluate, and interpolate the weights.

The training itself is `oneclip.train.run`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from oneclip import checkpoint
from oneclip.config.finetune import FinetuneCfg
from oneclip.config.run import RunCfg
from oneclip.config.training import TrainCfg
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError, MissingExtraError
from oneclip.evaluate import (
    Classification,
    EncoderAdapter,
    EvaluationHook,
    FeatureExtractor,
    ModuleAdapter,
    Retrieval,
    Task,
)
from oneclip.hub.pairs import is_pairs_table, read_pairs
from oneclip.image import Preprocess
from oneclip.train.autocast import autocast_to
from oneclip.train.distributed.rank_zero import broadcast_tensors, run_on_rank_zero
from oneclip.train.distributed.world import World
from oneclip.train.evaluation import DistributedExtractor, held_out_evaluation, open_eval_task
from oneclip.train.finetune import wise_ft
from oneclip.train.finetune.alpha_plot import draw_alpha_sweep
from oneclip.train.finetune.held_out_split import pairs_as_csv, split_pairs
from oneclip.train.finetune.methods import METHODS_BY_NAME, AdaptedModel, adapt
from oneclip.train.finetune.reference_task import open_reference_task
from oneclip.train.finetune.report_section import sweep_section
from oneclip.train.finetune.teacher import load_teacher
from oneclip.train.initial_model import InitialModel
from oneclip.train.loop import Reporter
from oneclip.train.run import FinishedTraining, MakeObjective, RunResult, run
from oneclip.train.run_dir import RunDir

BATCH_SIZE = 64
OnPoint = Callable[[wise_ft.AlphaPoint], None]


@dataclass(frozen=True)
class FinetuneResult:
    """Result of a fine-tuning.

    Attributes:
        run: the training.
        sweep: metrics from before to after; None if the run was interrupted.
        adapter: folder of the LoRA adapters, if any.
        notes: what is missing and why, in one sentence each.
        skipped: unusable images, with reasons.
    """

    run: RunResult
    sweep: wise_ft.AlphaSweep | None
    adapter: Path | None
    notes: list[str] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)


def finetune(
    cfg: FinetuneCfg,
    reporter: Reporter | None = None,
    *,
    on_point: OnPoint | None = None,
    objective: MakeObjective | None = None,
) -> FinetuneResult:
    """Fine-tune, evaluate interpolations between before and after, and write the best one to `cfg.out`.

    Args:
        cfg: settings of the fine-tuning.
        reporter: receives the progress of the training.
        on_point: called with each interpolation after its evaluation.
        objective: makes the objective, in place of that of the settings; see `oneclip.train.run`.

    Raises:
        ConfigError: if settings conflict, the model does not support the method, or the reference task is missing.
        DataError: if tables or images cannot be used, or there are too few images to hold some out.
        MissingExtraError: for LoRA without peft.
        UnknownModelError: if the model does not exist.
        OutputError: if a file cannot be written.
        TrainingError: if the loss is not finite.
    """
    reference = open_reference_task(cfg)
    data = _FinetuneData(cfg)
    hooks = _Hooks(cfg, data.task, reference, on_point)
    result = run(
        data.run_cfg(),
        reporter,
        recorded_cfg=cfg,
        begin=data.write_split,
        adapt=hooks.adapt,
        evaluate=hooks.evaluate,
        at_end=hooks.at_end,
        teach=partial(load_teacher, cfg.teacher) if cfg.teacher is not None else None,
        objective=objective,
    )
    skipped = dict(result.skipped) | data.task.skipped | (reference.skipped if reference is not None else {})
    not_read = [
        task.not_read.sentence
        for task in (data.task, reference)
        if isinstance(task, Classification) and task.not_read
    ]
    return FinetuneResult(result, hooks.sweep, hooks.adapter, hooks.notes + not_read, skipped)


class _FinetuneData:
    """Training data and held-out data of a fine-tuning.

    Attributes:
        task: evaluation on the held-out data.
    """

    def __init__(self, cfg: FinetuneCfg) -> None:
        self._cfg = cfg
        self._files: dict[str, str] = {}
        self._count: int | None = None
        place = cfg.sources[0]
        is_split = cfg.eval_data is None
        if is_split and (len(cfg.sources) > 1 or not is_pairs_table(place)):
            raise ConfigError(
                f"only a single table can be split, not {' and '.join(cfg.sources)}; name held-out data "
                "(eval_data, --eval-data)"
            )
        self._is_table = len(cfg.sources) == 1 and is_pairs_table(place)
        pairs = read_pairs(place, separator=cfg.delimiter, **cfg.columns) if self._is_table else None
        if cfg.eval_data is not None:
            self.task: Task = open_eval_task(cfg)
        else:
            assert pairs is not None
            pairs, held_out = split_pairs(pairs, cfg.held_out, cfg.seed)
            parts = {"train.csv": pairs, "held_out.csv": held_out}
            self._files = {name: pairs_as_csv(part, cfg.columns) for name, part in parts.items()}
            task = Retrieval.from_pairs(held_out, self._images, skip_missing=cfg.skip_missing)
            task.name = "held_out.csv"
            self.task = task
        self._count = len(pairs) if pairs is not None else None

    def run_cfg(self) -> RunCfg:
        """Return the settings of the training."""
        cfg = self._cfg
        lr = cfg.lr if cfg.lr is not None else METHODS_BY_NAME[cfg.method].lr
        changes: dict[str, Any] = {
            "eval_data": None,  # evaluated by the hook instead
            "batch_size": cfg.batch_size or min(BATCH_SIZE, self._count or BATCH_SIZE),
            "train": {**cfg.train, "lr": lr, "weight_decay": cfg.weight_decay},
        }
        if self._files:
            changes |= {"data": str(self._folder / "train.csv"), "images": self._images, "separator": None}
        return cfg.run_cfg(**changes)

    def write_split(self, folder: RunDir, *, is_new: bool) -> None:
        """Write the split into the locked folder of the run.

        Raises:
            ConfigError: if a resumed run was trained on another split.
        """
        for name, text in self._files.items():
            path = self._folder / name
            if not is_new and path.is_file() and path.read_bytes() != text.encode("utf-8"):
                raise ConfigError(
                    f"{path} contains another split than {self._cfg.sources[0]}, held_out {self._cfg.held_out:g} and "
                    f"seed {self._cfg.seed} give, so training images would be held out. Resume with the same data and "
                    "settings, or choose another folder"
                )
            folder.write_text(path, text)

    @property
    def _folder(self) -> Path:
        return self._cfg.folder / "data"

    @property
    def _images(self) -> str:
        cfg = self._cfg
        return str(cfg.images) if cfg.images is not None else str(Path(cfg.sources[0]).parent)


class _Hooks:
    """Hooks of a fine-tuning for `oneclip.train.run`."""

    def __init__(
        self, cfg: FinetuneCfg, task: Task, reference: Task | None, on_point: OnPoint | None
    ) -> None:
        self._cfg, self._task, self._reference, self._on_point = cfg, task, reference, on_point
        self._before: dict[str, Tensor] = {}
        self._adapted: AdaptedModel | None = None
        self.sweep: wise_ft.AlphaSweep | None = None
        self.adapter: Path | None = None
        self.notes: list[str] = []

    def adapt(self, start: InitialModel) -> nn.Module:
        """Save the original weights, and prepare the model for its method."""
        self._before = {name: t.detach().cpu().clone() for name, t in start.model.state_dict().items()}
        self._adapted = adapt(start.model, self._cfg)
        return start.model

    def evaluate(self, start: InitialModel, train_cfg: TrainCfg, world: World) -> EvaluationHook:
        """Return the evaluation on the new task during training."""
        return held_out_evaluation(self._task, start, self._cfg, train_cfg, world)

    def at_end(self, finished: FinishedTraining) -> None:
        """Evaluate interpolations from before to after, and replace the trained weights by the selected ones."""
        adapted, reference, world = self._adapted, self._reference, finished.world
        assert adapted is not None
        trained: dict[str, Tensor] = {}

        def finish() -> None:
            found = adapted.merged_weights(finished.state_dict, self._before)
            trained.update({name: tensor.cpu() for name, tensor in found.items()})

        run_on_rank_zero(world, finish)
        after = broadcast_tensors(world, trained, like=self._before)
        evaluated = _EvaluatedModel(finished.start, self._cfg, world)

        def evaluate(weights: Mapping[str, Tensor]) -> tuple[wise_ft.Metrics, wise_ft.Metrics | None]:
            extractor = evaluated.with_weights(weights)
            return self._task(extractor), (reference(extractor) if reference is not None else None)

        points = []
        for alpha in self._cfg.alphas:
            points += wise_ft.evaluate_alphas(self._before, after, [alpha], evaluate)
            if self._on_point is not None and world.is_rank_zero:
                self._on_point(points[-1])
        name, metric = (reference.name, reference.headline) if reference is not None else (None, None)
        chosen = wise_ft.select_alpha(points, self._task.headline, metric, self._cfg.requested_alpha)
        sweep = wise_ft.AlphaSweep(points, self._task.name, self._task.headline, name, metric, chosen)
        self.sweep = sweep = world.broadcast_object(sweep)
        finished.state_dict = wise_ft.interpolate(self._before, after, sweep.chosen)
        self.adapter = run_on_rank_zero(
            world, lambda: adapted.write(finished.folder.path / "adapter", sweep.chosen)
        )
        run_on_rank_zero(world, lambda: self._report(finished, sweep))

    def _report(self, finished: FinishedTraining, sweep: wise_ft.AlphaSweep) -> None:
        folder = finished.folder
        folder.write_text(folder.path / "wise_ft.json", json.dumps(sweep.to_dict(), indent=2) + "\n")
        png = None
        try:
            png = draw_alpha_sweep(sweep)
        except MissingExtraError as error:
            self.notes.append(f"the plot was not drawn: {error}")
        else:
            folder.write_bytes(folder.path / "wise_ft.png", png)
        finished.sections.append(sweep_section(sweep, png))
        finished.metrics = dict(sweep.at(sweep.chosen).new)


class _EvaluatedModel:
    """Model as it will be written, evaluated with one set of weights after another."""

    def __init__(self, start: InitialModel, cfg: FinetuneCfg, world: World) -> None:
        self._start, self._cfg, self._world = start, cfg, world
        self._model = checkpoint.build_uninitialized(start.cfg)

    def with_weights(self, weights: Mapping[str, Tensor]) -> FeatureExtractor:
        """Load weights, and return an extractor that all processes share."""
        start, cfg = self._start, self._cfg
        checkpoint.load_into(self._model, weights, source="the fine-tuned weights")
        model = self._model.float().to(start.device).eval()
        preprocess, batch_size = Preprocess(start.preprocess_cfg), cfg.batch_size or BATCH_SIZE
        extractor: FeatureExtractor
        if cfg.eval_precision in (None, "fp32"):
            encoder = Encoder(
                model, preprocess, start.tokenizer, start.cfg, name=str(cfg.model), **cfg.image_options
            )
            extractor = EncoderAdapter(encoder, batch_size=cfg.eval_batch_size or batch_size)
        else:
            extractor = ModuleAdapter(
                model,
                preprocess,
                start.tokenizer,
                pad_id=start.tokenizer.pad_token_id,
                batch_size=batch_size,
                micro_batch=cfg.eval_batch_size,
                device=start.device,
                computing=partial(autocast_to, str(cfg.eval_precision), start.device),
                **cfg.image_options,
            )
        return extractor if self._world.is_single else DistributedExtractor(extractor, self._world)
