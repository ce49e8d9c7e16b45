"""Reference task of a fine-tuning (`--reference`): data that measures what the model forgets."""

from __future__ import annotations

import os
from pathlib import Path

from oneclip import zoo
from oneclip.config.finetune import NO_REFERENCE, FinetuneCfg
from oneclip.errors import ConfigError, UnknownModelError
from oneclip.evaluate import Task, load_pocket_heldout, open_task, read_templates

REFERENCE_CHOICES = "a table of images and captions, a folder of classes, or none"


def has_bundled_reference(model: str | Path) -> bool:
    """Return True if the package has a reference task for a model, so that none needs to be named."""
    try:
        source = zoo.resolve(model)
    except UnknownModelError:  # reported when the model is loaded
        return False
    return source.path is not None and os.path.realpath(source.path) == os.path.realpath(zoo.pocket_path())


def open_reference_task(cfg: FinetuneCfg) -> Task | None:
    """Open the reference task; None if it is switched off.

    Raises:
        ConfigError: if it is not set and the package has none for the model.
        DataError: if it cannot be used.
    """
    if not cfg.reference:
        if has_bundled_reference(cfg.model):
            return load_pocket_heldout()
        raise ConfigError(
            f"{cfg.model} needs a reference task, to measure what it forgets; set reference (--reference) to "
            f"{REFERENCE_CHOICES}"
        )
    if str(cfg.reference) == NO_REFERENCE:
        return None
    return open_task(
        cfg.reference,
        images=cfg.reference_images,
        separator=cfg.delimiter,
        templates=read_templates(cfg.templates),
        skip_missing=cfg.skip_missing,
        **cfg.columns,
    )
