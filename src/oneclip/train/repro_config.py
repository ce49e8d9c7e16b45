"""`config.toml` of a run: settings that reproduce it from any folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from oneclip import zoo
from oneclip.config.finetune import NO_REFERENCE, FinetuneCfg
from oneclip.config.run import RunCfg
from oneclip.config.toml_file import write_settings
from oneclip.config.training import TrainCfg
from oneclip.errors import UnknownModelError
from oneclip.evaluate.templates import NAMED_TEMPLATES
from oneclip.hub.addresses import is_address
from oneclip.train.data.open_dataset import SYNTHETIC

Cfg = TypeVar("Cfg", bound=RunCfg)

NOT_RECORDED = (
    "resume",
    "preflight",
    "allow_changes",
)  # settings of one start, not of the run
COMPUTED_SETTINGS = ("steps", "warmup", "evaluate_every", "lr")  # if not set, they are computed from the data


def repro_config_toml(cfg: RunCfg, train_cfg: TrainCfg) -> str:
    """Return the text of `config.toml`: all settings, with absolute paths, and computed settings in comments.

    Args:
        cfg: settings of a training or a fine-tuning.
        train_cfg: settings of its trainer.
    """
    text = write_settings(
        with_full_paths(cfg),
        derived={name: getattr(train_cfg, name) for name in COMPUTED_SETTINGS},
        leave_out=NOT_RECORDED,
    )
    command = "finetune --config" if isinstance(cfg, FinetuneCfg) else "train"
    return f"# To run it again: oneclip {command} THIS_FILE --out OTHER_FOLDER\n\n{text}"


def with_full_paths(cfg: Cfg) -> Cfg:
    """Return the settings with the absolute paths of everything on this machine."""
    paths: dict[str, Any] = {
        "data": tuple(map(_full_source, cfg.sources))
        if len(cfg.sources) > 1
        else _full_source(cfg.sources[0]),
        "out": os.path.abspath(cfg.out),
        "images": _full_or_none(cfg.images),
        "eval_data": _full_or_none(cfg.eval_data),
        "eval_images": _full_or_none(cfg.eval_images),
        "templates": cfg.templates if cfg.templates in NAMED_TEMPLATES else _full(cfg.templates),
    }
    if isinstance(cfg, FinetuneCfg):
        paths |= {
            "reference": cfg.reference if str(cfg.reference) in ("", NO_REFERENCE) else _full(cfg.reference),
            "reference_images": _full_or_none(cfg.reference_images),
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
    """Return the absolute path of a source, which may have braces, stars or a weight."""
    is_path = not is_address(source) and not source.startswith(SYNTHETIC)
    return os.path.abspath(source) if is_path else source


def _full_or_none(path: str | Path | None) -> str | None:
    return None if path is None else _full(path)


def _full_json(model: str | Path | None) -> str | None:
    """Return the absolute path of a JSON file; architecture names do not change, even if such a file exists."""
    if model is None:
        return None
    return _full(model) if str(model).endswith(".json") else str(model)


def _full_weights(model: str | Path | None, pretrained: str | Path | None) -> str | None:
    """Return weights with an absolute path if they are a file or folder, otherwise their name."""
    if pretrained is None:
        return None
    name = str(pretrained)
    try:
        source = zoo.resolve(pretrained if model is None else f"{model}:{name}")
    except UnknownModelError:  # reported when the model is loaded
        return name
    if source.path is not None and source.kind in ("file", "folder"):
        return _full(source.path)
    if source.path is not None and source.kind == "architecture-file":
        path = _full(source.path)
        return path if model is not None else f"{source.architecture}:{path}"
    return name
