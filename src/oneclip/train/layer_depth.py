"""Depth of each parameter below the top of its tower, for layer-wise learning-rate decay.

With layer-wise decay, lower layers, which are useful for any image or text, change less than upper layers, which are
specific to a task (Bao et al. 2022, BEiT).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from oneclip.errors import ConfigError
from oneclip.model import DualEncoder

Layer = list[nn.Parameter]


def layers_above(modules: Iterable[nn.Module]) -> dict[Tensor, int]:
    """Return the number of layers above each parameter of the towers in some modules.

    The embeddings and each block or stage are a layer. What follows the last one (final norm, pooling, projection) is
    the head, with no layer above. Parameters that are not in the result are not in a tower and count as the head.

    Raises:
        ConfigError: if the modules contain no dual encoder, or the layers of a tower are unknown.
    """
    models = _dual_encoders(modules)
    if not models:
        raise ConfigError(
            "layer_decay needs the towers of a dual encoder, but the model has none; leave it at 1.0"
        )
    above: dict[Tensor, int] = {}
    for layers in (tower for model in models for tower in _layers_of_towers(model)):
        above |= {p: len(layers) - number for number, layer in enumerate(layers) for p in layer}
    return above


def tower_parameters(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of the image towers and of the text towers in some modules, without the temperature."""
    images: list[nn.Parameter] = []
    texts: list[nn.Parameter] = []
    for model in _dual_encoders(modules):
        images += model.visual.parameters()
        # CLIP itself is the text module, and also contains the image tower and the temperature
        texts += [
            parameter
            for name, parameter in model.text_module().named_parameters()
            if not name.startswith(("visual.", "logit_scale", "logit_bias"))
        ]
    return images, texts


def _dual_encoders(modules: Iterable[nn.Module]) -> list[DualEncoder]:
    parts = (part for module in modules for part in module.modules())
    return [part for part in parts if isinstance(part, DualEncoder)]


def _layers_of_towers(model: DualEncoder) -> list[list[Layer]]:
    """Return the layers of both towers, lowest first, without their heads."""
    try:
        towers = [model.image_tower().layer_groups(), model.text_layer_groups()]
    except (AttributeError, ConfigError) as error:
        raise ConfigError(f"layer_decay needs the layers of each tower: {error}; leave it at 1.0") from error
    return [[layer for layer in layers if layer] for layers in towers]
