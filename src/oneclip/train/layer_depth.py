"""A dual encoder to its layers, counted from the top: how far each parameter is from the features.

With layer-wise decay of the learning rate the layers that hold what every picture or caption needs move less than
those that tell a task's classes apart (Bao et al. 2022, BEiT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.model import DualEncoder, ModifiedResNet, SigLIPVision, TextTower, VisionTransformer
from oneclip.model.hf_config import kind_of
from oneclip.model.hf_tower import HFTextTower
from oneclip.model.optional_package import optional_package
from oneclip.model.timm_tower import TimmTower

Layer = list[Tensor]
STRANGER = "?"  # a name that no pattern of timm's matches


def layers_above(modules: Iterable[nn.Module]) -> dict[Tensor, int]:
    """How many layers lie above that of each parameter of the towers in some modules.

    Embeddings, and each block or stage, are a layer; what follows the last one (final norm, pooling, projection) is
    the head, with none above. Parameters that are not listed are no tower's: they count as the head, too.

    Raises:
        ConfigError: if there is no dual encoder among the modules, or the layers of a tower are not known.
    """
    towers = [tower for module in modules for part in module.modules() for tower in _towers(part)]
    if not towers:
        raise ConfigError("layer_decay needs the towers of a dual encoder, and found none; leave it at 1.0")
    above: dict[Tensor, int] = {}
    for tower in towers:
        layers = [layer for layer in _layers(tower) if layer]
        above |= {p: len(layers) - number for number, layer in enumerate(layers) for p in layer}
    return above


def tower_parameters(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of the image towers and of the text towers in some modules; the temperature is of neither."""
    images: list[nn.Parameter] = []
    texts: list[nn.Parameter] = []
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, DualEncoder):
            visual, text = _towers(part)
            images += visual.parameters()
            # a CLIP is its own text tower, with the image tower and the temperature in it
            of_text = {p: name for name, p in text.named_parameters()}
            texts += [
                p
                for p, name in of_text.items()
                if not name.startswith(("visual.", "logit_scale", "logit_bias"))
            ]
    return images, texts


def _towers(part: nn.Module) -> list[nn.Module]:
    return [part.visual, part._text_tower()] if isinstance(part, DualEncoder) else []


def _layers(tower: nn.Module) -> list[Layer]:
    """The layers of a tower, lowest first, without its head."""
    for kind, layers in KINDS:
        if isinstance(tower, kind):
            return layers(tower)
    raise ConfigError(
        f"the layers of a {type(tower).__name__} are not known, which layer_decay asks for; leave it at 1.0"
    )


def _vision_transformer(tower: Any) -> list[Layer]:
    embeddings = [tower.conv1, tower.class_embedding, tower.positional_embedding, tower.ln_pre]
    return [_parameters(embeddings), *([*block.parameters()] for block in tower.transformer.resblocks)]


def _resnet(tower: Any) -> list[Layer]:
    stem = [tower.conv1, tower.bn1, tower.conv2, tower.bn2, tower.conv3, tower.bn3]
    stages = [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
    return [_parameters(stem), *([*stage.parameters()] for stage in stages)]


def _siglip(tower: Any) -> list[Layer]:
    trunk = tower.trunk
    embeddings = _parameters([trunk.patch_embed, trunk.pos_embed])
    return [embeddings, *([*block.parameters()] for block in trunk.blocks)]


def _text(tower: Any) -> list[Layer]:
    embeddings = _parameters([tower.token_embedding, tower.positional_embedding, tower.cls_emb])
    return [embeddings, *([*block.parameters()] for block in tower.transformer.resblocks)]


def _hugging_face(tower: Any) -> list[Layer]:
    kind = kind_of(tower.config)
    embeddings = attrgetter(kind.embeddings)(tower.transformer)
    return [[*part.parameters()] for part in (embeddings, *attrgetter(kind.blocks)(tower.transformer))]


def _timm(tower: Any) -> list[Layer]:
    """As timm groups its layers; what none of its patterns matches is the head."""
    matcher = getattr(tower.trunk, "group_matcher", None)
    if matcher is None:
        raise ConfigError(
            f"timm knows no layers of {type(tower.trunk).__name__}, which layer_decay asks for; leave it at 1.0"
        )
    group = optional_package("timm.models", "A timm tower", "timm").group_parameters
    names: dict[int, list[str]] = group(_WithStranger(tower.trunk), matcher())
    named = dict(tower.trunk.named_parameters())
    return [
        [named[name] for name in names[number]] for number in sorted(names) if STRANGER not in names[number]
    ]


class _WithStranger:
    """The parameters of a trunk, and one that no pattern matches: timm puts it where it puts the head."""

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = trunk

    def named_parameters(self) -> Iterable[tuple[str, Tensor | None]]:
        return chain(self._trunk.named_parameters(), [(STRANGER, None)])


KINDS: tuple[tuple[type[nn.Module], Callable[[Any], list[Layer]]], ...] = (
    (VisionTransformer, _vision_transformer),
    (ModifiedResNet, _resnet),
    (SigLIPVision, _siglip),
    (TimmTower, _timm),
    (TextTower, _text),
    (HFTextTower, _hugging_face),
)


def _parameters(parts: Iterable[nn.Module | Tensor | None]) -> Layer:
    own = (part.parameters() if isinstance(part, nn.Module) else [part] for part in parts if part is not None)
    return list(chain.from_iterable(own))
