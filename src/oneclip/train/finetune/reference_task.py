"""What `--before` means: the data that says what a fine-tuning has forgotten."""

from __future__ import annotations

import os
from pathlib import Path

from oneclip import zoo
from oneclip.config.finetune import FinetuneCfg
from oneclip.errors import ConfigError, UnknownModelError
from oneclip.evaluate import Task, open_task, pocket_sample, read_templates

NONE = "none"
CHOICES = "a table of pictures and captions, a folder of classes, or none"


def has_a_sample(model: str | Path) -> bool:
    """Whether something from before comes with a model, so that nothing needs to be said."""
    try:
        source = zoo.resolve(model)
    except UnknownModelError:  # told where the model is read
        return False
    return source.path is not None and os.path.realpath(source.path) == os.path.realpath(zoo.pocket_path())


def before_task(cfg: FinetuneCfg) -> Task | None:
    """The task from before; None if there is to be none.

    Raises:
        ConfigError: if nothing says what it is, and nothing comes with the model.
        DataError: if it cannot be used.
    """
    if not cfg.before:
        if has_a_sample(cfg.model):
            return pocket_sample()
        raise ConfigError(
            f"say what {cfg.model} could do before, to see what it forgets (before=…, --before …): {CHOICES}"
        )
    if str(cfg.before) == NONE:
        return None
    return open_task(
        cfg.before,
        images=cfg.before_images,
        separator=cfg.delimiter,
        templates=read_templates(cfg.templates),
        skip_missing=cfg.skip_missing,
        **cfg.columns,
    )
