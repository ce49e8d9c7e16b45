"""A run to the text of the file that repeats it, from whatever folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from oneclip import zoo
from oneclip.errors import UnknownModelError
from oneclip.hub.addresses import is_address
from oneclip.train.config import TrainCfg
from oneclip.train.settings import RunCfg
from oneclip.train.sources.open import SYNTHETIC
from oneclip.train.toml import write_settings

PER_COMMAND = ("resume", "preflight")  # settings that say how to run it this time, not what the run is
COUNTED = ("steps", "warmup", "evaluate_every")  # where they are not given, the data says them


def repeatable(cfg: RunCfg, train_cfg: TrainCfg) -> str:
    """The text of `config.toml`: every setting, paths in full, and in comments what was counted."""
    text = write_settings(
        with_full_paths(cfg),
        derived={name: getattr(train_cfg, name) for name in COUNTED},
        leave_out=PER_COMMAND,
    )
    return f"# To run it again: oneclip train THIS_FILE --out OTHER_FOLDER\n\n{text}"


def with_full_paths(cfg: RunCfg) -> RunCfg:
    """The same run with the paths of what is on this machine written in full."""
    return replace(
        cfg,
        data=tuple(map(_full_source, cfg.sources)) if len(cfg.sources) > 1 else _full_source(cfg.sources[0]),
        out=os.path.abspath(cfg.out),
        images=_full_or_none(cfg.images),
        eval_data=_full_or_none(cfg.eval_data),
        eval_images=_full_or_none(cfg.eval_images),
        model=_full_json(cfg.model),
        pretrained=_full_weights(cfg),
    )


def _full(path: str | Path) -> str:
    return os.path.abspath(path) if os.path.exists(path) else str(path)


def _full_source(source: str) -> str:
    """A path in full, also one with braces, stars or a weight."""
    is_path = not is_address(source) and not source.startswith(SYNTHETIC)
    return os.path.abspath(source) if is_path else source


def _full_or_none(path: str | Path | None) -> str | None:
    return None if path is None else _full(path)


def _full_json(model: str | Path | None) -> str | None:
    """A name of an architecture stays as it is, whatever file of that name there may be."""
    if model is None:
        return None
    return _full(model) if str(model).endswith(".json") else str(model)


def _full_weights(cfg: RunCfg) -> str | None:
    if cfg.pretrained is None:
        return None
    name = str(cfg.pretrained)
    try:
        source = zoo.resolve(cfg.pretrained if cfg.model is None else f"{cfg.model}:{name}")
    except UnknownModelError:  # told where the model is read
        return name
    if source.path is not None and source.kind in ("file", "folder"):
        return _full(source.path)
    if source.path is not None and source.kind == "architecture-file":
        path = _full(source.path)
        return path if cfg.model is not None else f"{source.architecture}:{path}"
    return name
