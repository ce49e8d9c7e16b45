"""Initial model of a training: pretrained or random weights, with preprocessing and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oneclip import checkpoint, zoo
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.hub import read_json
from oneclip.model import build_model
from oneclip.model.text_pooling import TextPooling
from oneclip.text import Tokenizer, get_tokenizer
from oneclip.train.data.batches import Prepare


@dataclass
class InitialModel:
    """Model to train, with its configuration, preprocessing and tokenizer.

    Attributes:
        model: on the CPU, in fp32.
        cfg: configuration of the model.
        preprocess_cfg: inference preprocessing.
        home: where to look for its tokenizer.
        device: device of the training.
    """

    model: nn.Module
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    home: str | Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the text tower."""
        return get_tokenizer(self.cfg.text_cfg, self.home)

    @cached_property
    def prepare(self) -> Prepare:
        """Return the preparation of a batch for the model."""
        return Prepare(
            self.tokenizer,
            self.preprocess_cfg,
            crop_texts=TextPooling.of_cfg(self.cfg.text_cfg).may_crop_padding,
            pad_id=self.tokenizer.pad_token_id,
        )

    @property
    def description(self) -> dict[str, Any]:
        """Return the configurations that checkpoints save with the weights."""
        return {"model_cfg": self.cfg.to_dict(), "preprocess_cfg": self.preprocess_cfg.to_dict()}


def load_initial_model(
    architecture: str | None,
    pretrained: str | None,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    image_size: int | None = None,
    context_length: int | None = None,
) -> InitialModel:
    """Build or load the model to train, on the CPU in fp32.

    Args:
        architecture: a name in `oneclip.zoo`, or the path of a JSON file: an `open_clip_config.json`, or its
            `model_cfg` alone.
        pretrained: with an architecture, a tag or a file of it; alone, any argument of `oneclip.load`. None: random
            weights.
        seed: seed of random weights.
        device: device of the training; default: CPU.
        image_size: pixels of an image side; position embeddings are resized. Default: as in the model.
        context_length: tokens of a text; position embeddings are resized. Default: as in the model.

    Raises:
        ConfigError: if neither architecture nor weights are given, or they cannot be combined.
        UnknownModelError: for an architecture or weights that do not exist.
    """
    device = device if device is not None else torch.device("cpu")
    if architecture is None and pretrained is None:
        raise ConfigError(
            "no model to train; set an architecture (--model), pretrained weights (--pretrained), or both"
        )
    if pretrained is not None:
        if architecture is not None and architecture.endswith(".json"):
            raise ConfigError(
                f"pretrained weights cannot be used with {architecture}; name their architecture, or give them alone"
            )
        loaded = checkpoint.load(
            pretrained if architecture is None else f"{architecture}:{pretrained}",
            device="cpu",
            image_size=image_size,
            context_length=context_length,
        )
        return InitialModel(loaded.model, loaded.cfg, loaded.preprocess_cfg, loaded.home, device)
    assert architecture is not None
    if architecture.endswith(".json"):
        cfg, preprocess_cfg = read_config(Path(architecture))
        cfg = checkpoint.pool_at_end_of_text(cfg)
    else:
        cfg, preprocess_cfg = zoo.architecture(architecture), zoo.preprocess_of(architecture)
    if image_size is not None:
        cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, image_size=image_size))
        preprocess_cfg = replace(preprocess_cfg, size=image_size)
    if context_length is not None:
        cfg = replace(cfg, text_cfg=replace(cfg.text_cfg, context_length=context_length))
    torch.manual_seed(seed)
    return InitialModel(build_model(cfg), cfg, preprocess_cfg, device=device)


def read_config(path: Path) -> tuple[ModelCfg, PreprocessCfg]:
    """Read the configurations in a JSON file.

    Raises:
        ConfigError: if it is missing or not a JSON object, or has an unknown or a missing key.
    """
    try:
        values = read_json(path)
        cfg = ModelCfg.from_dict(values.get("model_cfg", values))
        preprocess = {"size": cfg.vision_cfg.image_size, **(values.get("preprocess_cfg") or {})}
        return cfg, PreprocessCfg.from_dict(preprocess)
    except CheckpointError as error:
        raise ConfigError(f"cannot read the model configuration: {error}") from error
    except ConfigError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not describe a model: {error}") from error
