"""A model of the zoo and a table to the model fine-tuned on it: what `oneclip finetune` runs.

The training itself is `oneclip.train.run`, with something before it and something after it.
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
from oneclip.evaluate import Classification, HeldOut, OfEncoder, OfModule, Retrieval, Subject, Task
from oneclip.hub.pairs import is_table, read_table
from oneclip.image import Preprocess
from oneclip.train.autocast import computing_in
from oneclip.train.distributed.rank_zero import by_first, from_first
from oneclip.train.distributed.world import World
from oneclip.train.evaluation import Shared, eval_task, held_out
from oneclip.train.finetune import wise_ft
from oneclip.train.finetune.alpha_plot import draw
from oneclip.train.finetune.held_out_split import pairs_as_csv, split_pairs
from oneclip.train.finetune.methods import BY_NAME, Adapted, adapt
from oneclip.train.finetune.reference_task import before_task
from oneclip.train.finetune.report_section import section
from oneclip.train.finetune.teacher import teacher_of
from oneclip.train.initial_model import Start
from oneclip.train.loop import Reporter
from oneclip.train.run import Ending, MakeObjective, RunResult, run
from oneclip.train.run_dir import RunFolder

BATCH_SIZE = 64
Advance = Callable[[wise_ft.Point], None]


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning came to.

    Attributes:
        run: the training.
        path: from before to after; None if it was interrupted.
        adapter: the folder of LoRA's adapters, if there are any.
        notes: what is missing and why, a sentence each.
        skipped: pictures that could not be used, and why.
    """

    run: RunResult
    path: wise_ft.Path | None
    adapter: Path | None
    notes: list[str] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)


def finetune(
    cfg: FinetuneCfg,
    reporter: Reporter | None = None,
    *,
    advance: Advance | None = None,
    objective: MakeObjective | None = None,
) -> FinetuneResult:
    """Fine-tune, evaluate what lies between before and after, and write the best of it to `cfg.out`.

    Args:
        cfg: the fine-tuning.
        reporter: told how the training goes.
        advance: told each point between before and after when it was evaluated.
        objective: what is learnt, in place of what the settings name; see `oneclip.train.run`.

    Raises:
        ConfigError: for settings that do not go together, a model that cannot be trained so, or no word on what to
            compare with.
        DataError: for tables or pictures that cannot be used, or too few to hold some out.
        MissingExtraError: for LoRA without peft.
        UnknownModelError: for a model that does not exist.
        OutputError: if something cannot be written.
        TrainingError: if the loss is no longer a number.
    """
    old = before_task(cfg)
    data = _Data(cfg)
    steps = _Steps(cfg, data.new, old, advance)
    result = run(
        data.run_cfg(),
        reporter,
        told=cfg,
        begin=data.write,
        adapt=steps.adapt,
        evaluate=steps.evaluate,
        at_end=steps.at_end,
        teach=partial(teacher_of, cfg.teacher) if cfg.teacher is not None else None,
        objective=objective,
    )
    skipped = dict(result.skipped) | data.new.skipped | (old.skipped if old is not None else {})
    not_read = [
        task.not_read.sentence
        for task in (data.new, old)
        if isinstance(task, Classification) and task.not_read
    ]
    return FinetuneResult(result, steps.path, steps.adapter, steps.notes + not_read, skipped)


class _Data:
    """What to train on, and what is held out of it.

    Attributes:
        new: the task that is trained for.
    """

    def __init__(self, cfg: FinetuneCfg) -> None:
        self._cfg = cfg
        self._files: dict[str, str] = {}
        self._count: int | None = None
        place = cfg.sources[0]
        is_split = cfg.eval_data is None
        if is_split and (len(cfg.sources) > 1 or not is_table(place)):
            raise ConfigError(
                f"of {' and '.join(cfg.sources)} nothing can be held out, as of one table; name held-out data "
                "(eval_data, --eval-data)"
            )
        self._is_table = len(cfg.sources) == 1 and is_table(place)
        pairs = read_table(place, separator=cfg.delimiter, **cfg.columns) if self._is_table else None
        if cfg.eval_data is not None:
            self.new: Task = eval_task(cfg)
        else:
            assert pairs is not None
            pairs, aside = split_pairs(pairs, cfg.held_out, cfg.seed)
            parts = {"train.csv": pairs, "held_out.csv": aside}
            self._files = {name: pairs_as_csv(part, cfg.columns) for name, part in parts.items()}
            task = Retrieval.of_pairs(aside, self._images, skip_missing=cfg.skip_missing)
            task.name = "held_out.csv"
            self.new = task
        self._count = len(pairs) if pairs is not None else None

    def run_cfg(self) -> RunCfg:
        """The training that a fine-tuning is."""
        cfg = self._cfg
        lr = cfg.lr if cfg.lr is not None else BY_NAME[cfg.way].lr
        changes: dict[str, Any] = {
            "eval_data": None,  # the hook evaluates
            "batch_size": cfg.batch_size or min(BATCH_SIZE, self._count or BATCH_SIZE),
            "train": {**cfg.train, "lr": lr, "weight_decay": cfg.weight_decay},
        }
        if self._files:
            changes |= {"data": str(self._folder / "train.csv"), "images": self._images, "separator": None}
        return cfg.run_cfg(**changes)

    def write(self, folder: RunFolder, *, is_new: bool) -> None:
        """Write the split, once the folder is this run's.

        Raises:
            ConfigError: if the run that goes on was trained on another split.
        """
        for name, text in self._files.items():
            path = self._folder / name
            if not is_new and path.is_file() and path.read_bytes() != text.encode("utf-8"):
                raise ConfigError(
                    f"{path} holds another split than {self._cfg.sources[0]}, held_out {self._cfg.held_out:g} and "
                    f"seed {self._cfg.seed} make, so images that were trained on would be held out. Go on with the "
                    "same data and settings, or choose another folder"
                )
            folder.write_text(path, text)

    @property
    def _folder(self) -> Path:
        return self._cfg.folder / "data"

    @property
    def _images(self) -> str:
        cfg = self._cfg
        return str(cfg.images) if cfg.images is not None else str(Path(cfg.sources[0]).parent)


class _Steps:
    """What a fine-tuning does around the steps of its training; the hooks of `oneclip.train.run`."""

    def __init__(self, cfg: FinetuneCfg, new: Task, old: Task | None, advance: Advance | None) -> None:
        self._cfg, self._new, self._old, self._advance = cfg, new, old, advance
        self._before: dict[str, Tensor] = {}
        self._adapted: Adapted | None = None
        self.path: wise_ft.Path | None = None
        self.adapter: Path | None = None
        self.notes: list[str] = []

    def adapt(self, start: Start) -> nn.Module:
        """Keep the weights from before, and make the model ready."""
        self._before = {name: t.detach().cpu().clone() for name, t in start.model.state_dict().items()}
        self._adapted = adapt(start.model, self._cfg)
        return start.model

    def evaluate(self, start: Start, train_cfg: TrainCfg, world: World) -> HeldOut:
        """The new task, during training."""
        return held_out(self._new, start, self._cfg, train_cfg, world)

    def at_end(self, ending: Ending) -> None:
        """Walk from before to after, and put the best compromise in the place of what was trained."""
        adapted, world = self._adapted, ending.world
        assert adapted is not None
        trained: dict[str, Tensor] = {}

        def finish() -> None:
            found = adapted.after(ending.state_dict, self._before)
            trained.update({name: tensor.cpu() for name, tensor in found.items()})

        by_first(world, finish)
        after = from_first(world, trained, like=self._before)
        shown = _Shown(ending.start, self._cfg, world)

        def evaluate(weights: Mapping[str, Tensor]) -> tuple[wise_ft.Figures, wise_ft.Figures | None]:
            subject = shown.with_weights(weights)
            return self._new(subject), (self._old(subject) if self._old is not None else None)

        points = []
        for alpha in self._cfg.alphas:
            points += wise_ft.walk(self._before, after, [alpha], evaluate)
            if self._advance is not None and world.is_first:
                self._advance(points[-1])
        old_name, old_metric = (self._old.name, self._old.headline) if self._old is not None else (None, None)
        chosen = wise_ft.choose(points, self._new.headline, old_metric, self._cfg.wanted)
        path = wise_ft.Path(points, self._new.name, self._new.headline, old_name, old_metric, chosen)
        self.path = path = world.first_says(path)
        ending.state_dict = wise_ft.interpolate(self._before, after, path.chosen)
        self.adapter = by_first(world, lambda: adapted.write(ending.folder.path / "adapter", path.chosen))
        by_first(world, lambda: self._tell(ending, path))

    def _tell(self, ending: Ending, path: wise_ft.Path) -> None:
        folder = ending.folder
        folder.write_text(folder.path / "wise_ft.json", json.dumps(path.to_dict(), indent=2) + "\n")
        png = None
        try:
            png = draw(path)
        except MissingExtraError as error:
            self.notes.append(f"no plot was drawn: {error}")
        else:
            folder.write_bytes(folder.path / "wise_ft.png", png)
        ending.sections.append(section(path, png))
        ending.figures = dict(path.at(path.chosen).new)


class _Shown:
    """A model as it will be written, to be evaluated with one set of weights after the other."""

    def __init__(self, start: Start, cfg: FinetuneCfg, world: World) -> None:
        self._start, self._cfg, self._world = start, cfg, world
        self._model = checkpoint.build_blank(start.cfg)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Subject:
        """The model with these weights; processes share its work."""
        start, cfg = self._start, self._cfg
        checkpoint.load_into(self._model, weights, source="the fine-tuned weights")
        model = self._model.float().to(start.device).eval()
        preprocess, batch_size = Preprocess(start.preprocess_cfg), cfg.batch_size or BATCH_SIZE
        subject: Subject
        if cfg.eval_precision in (None, "fp32"):
            encoder = Encoder(model, preprocess, start.tokenizer, start.cfg, name=str(cfg.model))
            subject = OfEncoder(encoder, batch_size=cfg.eval_batch_size or batch_size)
        else:
            subject = OfModule(
                model,
                preprocess,
                start.tokenizer,
                pad_id=start.tokenizer.pad_token_id,
                batch_size=batch_size,
                micro_batch=cfg.eval_batch_size,
                device=start.device,
                computing=partial(computing_in, str(cfg.eval_precision), start.device),
            )
        return Shared(subject, self._world) if not self._world.is_alone else subject
