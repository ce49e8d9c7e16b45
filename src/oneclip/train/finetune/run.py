"""A model of the zoo and a table to the model fine-tuned on it: what `oneclip finetune` runs.

The training itself is `oneclip.train.run`, with something before it and something after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from oneclip import checkpoint
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError, MissingExtraError
from oneclip.evaluate import Classification, HeldOut, OfEncoder, Task, open_task, read_templates
from oneclip.image import Preprocess
from oneclip.pairs import Pairs, is_table, read_table
from oneclip.train.checkpoints import make_folder
from oneclip.train.finetune import wise
from oneclip.train.finetune.before import before_task
from oneclip.train.finetune.config import FinetuneCfg
from oneclip.train.finetune.plot import draw
from oneclip.train.finetune.section import section
from oneclip.train.finetune.split import split_pairs, write_pairs
from oneclip.train.finetune.teacher import teacher_of
from oneclip.train.finetune.ways import BY_NAME, Adapted, adapt
from oneclip.train.loop import Reporter
from oneclip.train.precision import computing_in
from oneclip.train.run import Ending, RunResult, run
from oneclip.train.settings import RunCfg
from oneclip.train.start import Start
from oneclip.train.toml import write_settings

BATCH_SIZE = 64
Advance = Callable[[wise.Point], None]


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
    path: wise.Path | None
    adapter: Path | None
    notes: list[str] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)


def finetune(
    cfg: FinetuneCfg, reporter: Reporter | None = None, *, advance: Advance | None = None
) -> FinetuneResult:
    """Fine-tune, evaluate what lies between before and after, and write the best of it to `cfg.out`.

    Args:
        cfg: the fine-tuning.
        reporter: told how the training goes.
        advance: told each point between before and after when it was evaluated.

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
    data, new, pairs = _data(cfg)
    steps = _Steps(cfg, new, old, advance)
    result = run(
        _run_cfg(cfg, data, pairs),
        reporter,
        adapt=steps.adapt,
        evaluate=steps.evaluate,
        at_end=steps.at_end,
        teach=partial(teacher_of, cfg.teacher) if cfg.teacher is not None else None,
    )
    skipped = dict(result.skipped) | new.skipped | (old.skipped if old is not None else {})
    not_read = [
        task.not_read.sentence for task in (new, old) if isinstance(task, Classification) and task.not_read
    ]
    return FinetuneResult(result, steps.path, steps.adapter, steps.notes + not_read, skipped)


def _data(cfg: FinetuneCfg) -> tuple[str, Task, int | None]:
    """What to train on, the task that is trained for, and how many pairs there are, if they were counted."""
    columns = {"image_column": cfg.image_column, "caption_column": cfg.caption_column}
    if cfg.eval_data is not None:
        task = open_task(
            cfg.eval_data,
            images=cfg.eval_images if cfg.eval_images is not None else cfg.images,
            separator=cfg.delimiter,
            templates=read_templates(cfg.templates),
            skip_missing=cfg.skip_missing,
            **columns,
        )
        return str(cfg.data), task, len(_pairs(cfg)) if is_table(cfg.data) else None
    if not is_table(cfg.data):
        raise ConfigError(
            f"of {cfg.data} nothing can be held out, as of a table; name held-out data (eval_data, --eval-data)"
        )
    train, held_out = split_pairs(_pairs(cfg), cfg.split, cfg.seed)
    folder = cfg.folder / "data"
    make_folder(folder)
    paths = [
        write_pairs(part, folder / name, cfg.image_column, cfg.caption_column)
        for part, name in ((train, "train.csv"), (held_out, "held_out.csv"))
    ]
    task = open_task(paths[1], images=_images(cfg), skip_missing=cfg.skip_missing, **columns)
    return str(paths[0]), task, len(train)


def _pairs(cfg: FinetuneCfg) -> Pairs:
    return read_table(
        cfg.data,
        image_column=cfg.image_column,
        caption_column=cfg.caption_column,
        separator=cfg.delimiter,
    )


def _images(cfg: FinetuneCfg) -> str:
    return str(cfg.images) if cfg.images is not None else str(Path(cfg.data).parent)


def _run_cfg(cfg: FinetuneCfg, data: str, pairs: int | None) -> RunCfg:
    """The training that a fine-tuning is."""
    lr = cfg.lr if cfg.lr is not None else BY_NAME[cfg.way].lr
    table = is_table(cfg.data)
    return RunCfg(
        data=data,
        out=str(cfg.out),
        pretrained=str(cfg.model),
        images=_images(cfg) if table else cfg.images,
        image_column=cfg.image_column if table else None,
        caption_column=cfg.caption_column if table else None,
        separator=cfg.separator if data == str(cfg.data) else None,
        skip_missing=cfg.skip_missing,
        max_pixels=cfg.max_pixels,
        max_broken=cfg.max_broken,
        threads=cfg.threads,
        workers=cfg.workers,
        epochs=cfg.epochs,
        steps=cfg.steps,
        batch_size=cfg.batch_size if cfg.batch_size is not None else min(BATCH_SIZE, pairs or BATCH_SIZE),
        warmup=cfg.warmup,
        resume=cfg.resume,
        device=cfg.device,
        train={**cfg.train, "lr": lr, "weight_decay": cfg.weight_decay},
    )


class _Steps:
    """What a fine-tuning does around the steps of its training; the hooks of `oneclip.train.run`."""

    def __init__(self, cfg: FinetuneCfg, new: Task, old: Task | None, advance: Advance | None) -> None:
        self._cfg, self._new, self._old, self._advance = cfg, new, old, advance
        self._before: dict[str, Tensor] = {}
        self._adapted: Adapted | None = None
        self.path: wise.Path | None = None
        self.adapter: Path | None = None
        self.notes: list[str] = []

    def adapt(self, start: Start) -> nn.Module:
        """Keep the weights from before, and make the model ready."""
        self._before = {name: t.detach().cpu().clone() for name, t in start.model.state_dict().items()}
        self._adapted = adapt(start.model, self._cfg)
        return start.model

    def evaluate(self, start: Start) -> HeldOut:
        """The new task, during training."""
        precision = str(self._cfg.train.get("precision", "fp32"))
        return HeldOut(
            self._new,
            Preprocess(start.preprocess_cfg),
            start.tokenizer,
            pad_id=start.tokenizer.pad_token_id,
            batch_size=self._cfg.batch_size or BATCH_SIZE,
            device=start.device,
            computing=partial(computing_in, precision, start.device),
            max_pixels=self._cfg.max_pixels,
        )

    def at_end(self, ending: Ending) -> None:
        """Walk from before to after, and put the best compromise in the place of what was trained."""
        assert self._adapted is not None
        after = {name: t.cpu() for name, t in self._adapted.after(ending.state_dict, self._before).items()}
        shown = _Shown(ending.start, str(self._cfg.model), self._cfg.batch_size or BATCH_SIZE)

        def evaluate(weights: Mapping[str, Tensor]) -> tuple[wise.Figures, wise.Figures | None]:
            subject = shown.with_weights(weights)
            return self._new(subject), (self._old(subject) if self._old is not None else None)

        points = []
        for alpha in self._cfg.alphas:
            points += wise.walk(self._before, after, [alpha], evaluate)
            if self._advance is not None:
                self._advance(points[-1])
        old_name, old_metric = (self._old.name, self._old.headline) if self._old is not None else (None, None)
        chosen = wise.choose(points, self._new.headline, old_metric, self._cfg.wanted)
        self.path = wise.Path(points, self._new.name, self._new.headline, old_name, old_metric, chosen)
        ending.state_dict = wise.interpolate(self._before, after, chosen)
        self.adapter = self._adapted.write(ending.folder.path / "adapter", chosen)
        self._tell(ending, self.path)

    def _tell(self, ending: Ending, path: wise.Path) -> None:
        folder = ending.folder
        folder.write_text(
            folder.path / "finetune.toml",
            "# To run it again: oneclip finetune --config THIS_FILE --out OTHER_FOLDER\n\n"
            + write_settings(self._cfg, leave_out=("resume",)),
        )
        folder.write_text(folder.path / "wise_ft.json", json.dumps(path.to_dict(), indent=2) + "\n")
        png = None
        try:
            png = draw(path)
        except MissingExtraError as error:
            self.notes.append(f"no plot was drawn: {error}")
        else:
            folder.write_bytes(folder.path / "wise_ft.png", png)
        ending.sections.append(section(path, png))


class _Shown:
    """A model as it will be written, to be evaluated with one set of weights after the other."""

    def __init__(self, start: Start, name: str, batch_size: int) -> None:
        self._start, self._name, self._batch_size = start, name, batch_size
        self._model = checkpoint.build_blank(start.cfg)

    def with_weights(self, weights: Mapping[str, Tensor]) -> OfEncoder:
        """The model with these weights."""
        start = self._start
        checkpoint.load_into(self._model, weights, source="the fine-tuned weights")
        model = self._model.float().to(start.device).eval()
        encoder = Encoder(
            model,
            Preprocess(start.preprocess_cfg),
            start.tokenizer,
            start.cfg,
            name=self._name,
        )
        return OfEncoder(encoder, batch_size=self._batch_size)
