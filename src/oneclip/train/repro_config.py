"""A run to the text of the file that repeats it, from whatever folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from oneclip import zoo
from oneclip.config.finetune import FinetuneCfg
from oneclip.config.run import RunCfg
from oneclip.config.toml_file import write_settings
from oneclip.config.training import TrainCfg
from oneclip.errors import UnknownModelError
from oneclip.evaluate.templates import NAMED
from oneclip.hub.addresses import is_address
from oneclip.train.data.open_dataset import SYNTHETIC
from oneclip.train.finetune.reference_task import NONE

Cfg = TypeVar("Cfg", bound=RunCfg)

PER_COMMAND = (
    "resume",
    "preflight",
    "allow_changes",
)  # settings that say how to run it this time, not what the run is
COUNTED = ("steps", "warmup", "evaluate_every", "lr")  # where they are not given, the data says them


def repeatable(cfg: RunCfg, train_cfg: TrainCfg) -> str:
    """The text of `config.toml`: every setting, paths in full, and in comments what was counted.

    Args:
        cfg: of a training, or of a fine-tuning.
        train_cfg: what its training came to.
    """
    text = write_settings(
        with_full_paths(cfg),
        derived={name: getattr(train_cfg, name) for name in COUNTED},
        leave_out=PER_COMMAND,
    )
    command = "finetune --config" if isinstance(cfg, FinetuneCfg) else "train"
    return f"# To run it again: oneclip {command} THIS_FILE --out OTHER_FOLDER\n\n{text}"


def with_full_paths(cfg: Cfg) -> Cfg:
    """The same run with the paths of what is on this machine written in full."""
    paths: dict[str, Any] = {
        "data": tuple(map(_full_source, cfg.sources))
        if len(cfg.sources) > 1
        else _full_source(cfg.sources[0]),
        "out": os.path.abspath(cfg.out),
        "images": _full_or_none(cfg.images),
        "eval_data": _full_or_none(cfg.eval_data),
        "eval_images": _full_or_none(cfg.eval_images),
        "templates": cfg.templates if cfg.templates in NAMED else _full(cfg.templates),
    }
    if isinstance(cfg, FinetuneCfg):
        paths |= {
            "before": cfg.before if str(cfg.before) in ("", NONE) else _full(cfg.before),
            "before_images": _full_or_none(cfg.before_images),
            "teacher": None if cfg.teacher is None else _full_weights(None, cfg.teacher),
        }
    if isinstance(cfg, FinetuneCfg) and cfg.pretrained is None:
        paths["model"] = _full_weights(None, cfg.model)
    else:
        paths |= {"model": _full_json(cfg.model), "pretrained": _full_weights(cfg.model, cfg.pretrained)}
    return replace(cfg, **paths)


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


def _full_weights(model: str | Path | None, pretrained: str | Path | None) -> str | None:
    """The name of weights, of an architecture if one is named; a file or a folder in full."""
    if pretrained is None:
        return None
    name = str(pretrained)
    try:
        source = zoo.resolve(pretrained if model is None else f"{model}:{name}")
    except UnknownModelError:  # told where the model is read
        return name
    if source.path is not None and source.kind in ("file", "folder"):
        return _full(source.path)
    if source.path is not None and source.kind == "architecture-file":
        path = _full(source.path)
        return path if model is not None else f"{source.architecture}:{path}"
    return name
