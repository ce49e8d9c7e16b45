"""A table of captions and a folder of pictures to a trained model in a folder: what `oneclip train` runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oneclip import checkpoint, zoo
from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image import Augment, Preprocess
from oneclip.model import build_model
from oneclip.pairs import Pairs, read_table
from oneclip.text import get_tokenizer
from oneclip.train.batches import Prepare
from oneclip.train.checkpoints import latest_checkpoint, make_folder
from oneclip.train.config import TrainCfg
from oneclip.train.evaluate import HeldOut
from oneclip.train.loop import Outcome, Reporter, Trainer
from oneclip.train.sources import Loader, TableSamples


@dataclass(frozen=True)
class Table:
    """Where pairs are, and how to read them."""

    path: str | Path
    images: str | Path | None = None  # folder that paths are relative to; None: the table's own
    image_column: str = "filepath"
    caption_column: str = "caption"
    separator: str | None = None

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return Path(self.images) if self.images is not None else Path(self.path).parent


@dataclass(frozen=True)
class RunCfg:
    """One training from a table. `train` has the settings that `Trainer` takes, less the steps."""

    data: Table
    out: Path
    architecture: str | None = None  # a name, or the path of a JSON configuration
    pretrained: str | None = None  # a tag or file of the architecture; without one, what `oneclip.load` takes
    held_out: Table | None = None
    epochs: int = 10
    batch_size: int = 64
    warmup: int | None = None  # steps; None: a tenth of them
    resume: str | None = None  # "auto": go on if there is a checkpoint in `out`; or a checkpoint
    device: str | None = None
    threads: int = 4
    max_pixels: int | None = None
    skip_missing: bool = False
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """What a training came to."""

    outcome: Outcome
    steps: int
    model_file: Path | None  # for `oneclip.load`; None if it was interrupted
    skipped: dict[str, str]  # pictures that could not be used, and why
    rows_left_out: int  # of the table: without a picture or a caption


@dataclass(frozen=True)
class Start:
    """A model to train, with the facts that travel with it; `home` is where its tokenizer may lie."""

    model: nn.Module
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    home: str | Path | None = None


def train_on_table(cfg: RunCfg, reporter: Reporter | None = None) -> RunResult:
    """Train on the pairs of a table; write checkpoints, `metrics.jsonl` and in the end `model.safetensors`.

    Raises:
        DataError: for a table or pictures that cannot be used.
        ConfigError: for settings out of range, or a folder that holds another run.
        UnknownModelError: for an architecture or weights that do not exist.
        OutputError: if `out` cannot be written.
    """
    make_folder(cfg.out)
    resume_from = find_checkpoint(cfg.out, cfg.resume)
    pairs = _pairs(cfg.data)
    held_out = _pairs(cfg.held_out) if cfg.held_out is not None else None
    device = torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    start = starting_model(cfg.architecture, cfg.pretrained, seed=cfg.train.get("seed", 0))
    tokenizer = get_tokenizer(start.cfg.text_cfg, start.home)
    pad_id = tokenizer.pad_token_id
    prepare = Prepare(tokenizer, crop_texts=is_crop_exact(start.cfg.text_cfg), pad_id=pad_id)
    source = Loader(
        TableSamples(pairs, cfg.data.folder, skip_missing=cfg.skip_missing),
        cfg.batch_size,
        Augment(start.preprocess_cfg),
        seed=cfg.train.get("seed", 0),
        threads=cfg.threads,
        max_pixels=cfg.max_pixels,
    )
    train_cfg = settings(cfg, source.batches_per_epoch)
    evaluate = None
    if cfg.held_out is not None and held_out is not None:
        evaluate = HeldOut(
            held_out,
            cfg.held_out.folder,
            Preprocess(start.preprocess_cfg),
            prepare,
            batch_size=cfg.batch_size,
            device=device,
            precision=train_cfg.precision,
            max_pixels=cfg.max_pixels,
            skip_missing=cfg.skip_missing,
        )
    trainer = Trainer(
        start.model.to(device),
        source,
        train_cfg,
        out=cfg.out,
        prepare=prepare,
        evaluate=evaluate,
        reporter=reporter,
        identity=source.identity,
        description=describe(start),
        device=device,
    )
    if resume_from is not None:
        trainer.resume(resume_from)
    try:
        outcome = trainer.fit()
    finally:
        source.close()
    model_file = None
    if not outcome.interrupted:
        model_file = cfg.out / "model.safetensors"
        checkpoint.save(model_file, start.model.state_dict(), describe(start))
    skipped = source.skipped | (evaluate.skipped if evaluate is not None else {})
    return RunResult(outcome, train_cfg.steps, model_file, skipped, len(pairs.left_out))


def settings(cfg: RunCfg, batches_per_epoch: int) -> TrainCfg:
    """The trainer's settings, with epochs counted in steps.

    Raises:
        ConfigError: if one is out of its range.
    """
    if cfg.epochs < 1:
        raise ConfigError(f"epochs is {cfg.epochs}; expected at least 1")
    steps_per_epoch = max(1, batches_per_epoch // max(1, cfg.train.get("accumulate", 1)))
    steps = cfg.epochs * steps_per_epoch
    warmup = cfg.warmup if cfg.warmup is not None else steps // 10
    values = {
        "evaluate_every": steps_per_epoch,
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "warmup": warmup,
    }
    return TrainCfg.from_dict(values | cfg.train)


def find_checkpoint(out: Path, resume: str | None) -> Path | None:
    """The checkpoint to go on from, if any.

    Raises:
        ConfigError: if `out` has checkpoints and nothing says that they may be gone on from.
    """
    if resume not in (None, "auto"):
        return Path(str(resume))
    latest = latest_checkpoint(out)
    if latest is not None and resume is None:
        raise ConfigError(
            f"{out} holds a run already ({latest.name}); go on with it by resume=auto (--resume auto), "
            "or choose another folder"
        )
    return latest


def starting_model(architecture: str | None, pretrained: str | None, *, seed: int = 0) -> Start:
    """The model to train, on the CPU in fp32: of random weights by the seed, or pretrained.

    Args:
        architecture: a name that `oneclip.zoo` knows, or the path of a JSON file: an
            `open_clip_config.json`, or its `model_cfg` alone.
        pretrained: with an architecture's name, a tag or a file of it; alone, what `oneclip.load` takes.
    """
    if architecture is None and pretrained is None:
        raise ConfigError(
            "say what to train: an architecture (--model), pretrained weights (--pretrained), or both"
        )
    if pretrained is not None:
        if architecture is not None and architecture.endswith(".json"):
            raise ConfigError(
                f"pretrained weights do not go with {architecture}; name their architecture, or give them alone"
            )
        loaded = checkpoint.load(
            pretrained if architecture is None else f"{architecture}:{pretrained}", device="cpu"
        )
        return Start(loaded.model, loaded.cfg, loaded.preprocess_cfg, loaded.home)
    assert architecture is not None
    if architecture.endswith(".json"):
        cfg, preprocess_cfg = read_config(Path(architecture))
    else:
        cfg, preprocess_cfg = zoo.architecture(architecture), zoo.preprocess_of(architecture)
    torch.manual_seed(seed)
    return Start(build_model(cfg), cfg, preprocess_cfg)


def read_config(path: Path) -> tuple[ModelCfg, PreprocessCfg]:
    """The configurations in a JSON file.

    Raises:
        ConfigError: if it is missing, no JSON object, or has an unknown or a missing key.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}; expected an object with the model's configuration"
        )
    cfg = ModelCfg.from_dict(values.get("model_cfg", values))
    preprocess = {"size": cfg.vision_cfg.image_size, **values.get("preprocess_cfg", {})}
    return cfg, PreprocessCfg.from_dict(preprocess)


def is_crop_exact(cfg: CLIPTextCfg) -> bool:
    """Whether a text tower computes the same from ids cut after the longest caption."""
    is_causal = not cfg.no_causal_mask and not cfg.embed_cls and cfg.hf_model_name is None
    return is_causal and cfg.pool_type in ("argmax", "eos", "first")


def describe(start: Start) -> dict[str, Any]:
    """What goes with the weights, so that the file says what it is."""
    return {"model_cfg": start.cfg.to_dict(), "preprocess_cfg": start.preprocess_cfg.to_dict()}


def _pairs(table: Table) -> Pairs:
    return read_table(
        table.path,
        image_column=table.image_column,
        caption_column=table.caption_column,
        separator=table.separator,
    )
