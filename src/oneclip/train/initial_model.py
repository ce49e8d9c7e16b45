"""A name to the model that a training starts from, with the facts that travel with it."""

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
from oneclip.text import Tokenizer, get_tokenizer
from oneclip.train.data.batches import Prepare, is_crop_exact


@dataclass
class Start:
    """A model to train, with the facts that travel with it.

    Attributes:
        model: on the CPU, in fp32.
        cfg: what it was built of.
        preprocess_cfg: how a picture becomes a tensor for it.
        home: where its tokenizer may lie.
        device: where it will be trained.
    """

    model: nn.Module
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    home: str | Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that goes with its text tower."""
        return get_tokenizer(self.cfg.text_cfg, self.home)

    @cached_property
    def prepare(self) -> Prepare:
        """What happens to a batch on its way to the model."""
        return Prepare(
            self.tokenizer,
            self.preprocess_cfg,
            crop_texts=is_crop_exact(self.cfg.text_cfg),
            pad_id=self.tokenizer.pad_token_id,
        )

    @property
    def description(self) -> dict[str, Any]:
        """What goes with the weights, so that a file says what it is."""
        return {"model_cfg": self.cfg.to_dict(), "preprocess_cfg": self.preprocess_cfg.to_dict()}


def starting_model(
    architecture: str | None,
    pretrained: str | None,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    image_size: int | None = None,
    context_length: int | None = None,
) -> Start:
    """The model to train, on the CPU in fp32: of random weights by the seed, or pretrained.

    Args:
        architecture: a name that `oneclip.zoo` knows, or the path of a JSON file: an
            `open_clip_config.json`, or its `model_cfg` alone.
        pretrained: with an architecture's name, a tag or a file of it; alone, what `oneclip.load` takes.
        seed: of random weights.
        device: where it will be trained; the CPU if not given.
        image_size: pixels a side, for images of another size than the model's; positions are resized.
        context_length: tokens a caption, likewise.

    Raises:
        ConfigError: if neither is given, or they do not go together.
        UnknownModelError: for an architecture or weights that do not exist.
    """
    device = device if device is not None else torch.device("cpu")
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
            pretrained if architecture is None else f"{architecture}:{pretrained}",
            device="cpu",
            image_size=image_size,
            context_length=context_length,
        )
        return Start(loaded.model, loaded.cfg, loaded.preprocess_cfg, loaded.home, device)
    assert architecture is not None
    if architecture.endswith(".json"):
        cfg, preprocess_cfg = read_config(Path(architecture))
        cfg = checkpoint.pooled_at_end(cfg)
    else:
        cfg, preprocess_cfg = zoo.architecture(architecture), zoo.preprocess_of(architecture)
    if image_size is not None:
        cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, image_size=image_size))
        preprocess_cfg = replace(preprocess_cfg, size=image_size)
    if context_length is not None:
        cfg = replace(cfg, text_cfg=replace(cfg.text_cfg, context_length=context_length))
    torch.manual_seed(seed)
    return Start(build_model(cfg), cfg, preprocess_cfg, device=device)


def read_config(path: Path) -> tuple[ModelCfg, PreprocessCfg]:
    """The configurations in a JSON file.

    Raises:
        ConfigError: if it is missing, no JSON object, or has an unknown or a missing key.
    """
    try:
        values = read_json(path)
        cfg = ModelCfg.from_dict(values.get("model_cfg", values))
        preprocess = {"size": cfg.vision_cfg.image_size, **(values.get("preprocess_cfg") or {})}
        return cfg, PreprocessCfg.from_dict(preprocess)
    except CheckpointError as error:
        raise ConfigError(f"the configuration cannot be read: {error}") from error
    except ConfigError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not describe a model: {error}") from error
