"""Phases of the training."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.pocket.captions import CaptionMixer, Describer
from recipes.pocket.drawing import Augmentation


@dataclass(frozen=True)
class Phase:
    """Phase of the training.

    Attributes:
        name: also the folder of its checkpoints.
        steps: optimizer steps.
        batch_size: images, or words, a step.
        image_size: side of the images; 0 for words alone.
        lr, final_lr, warmup: the cosine goes from `lr` to `final_lr` after `warmup` steps.
        colour_weight: how often colour images are drawn, relative to one-colour ones.
        emoji_weight: how often emoji are drawn, relative to other images.
        mixer: the captions that name.
        describer: the captions that don't name.
        augmentation: how far images are changed.
        description: weight of the second contrast, between images and captions without their names; 0: none.
        average: decay a step of the moving average of the weights that the phase ends with; 0: its last weights.
    """

    name: str
    steps: int
    batch_size: int
    image_size: int
    lr: float
    final_lr: float
    warmup: int
    colour_weight: float = 2.0
    emoji_weight: float = 1.0
    mixer: CaptionMixer = field(default_factory=CaptionMixer)
    describer: Describer = field(default_factory=Describer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    description: float = 0.0
    average: float = 0.0


NAMES_FIRST = CaptionMixer(
    template=0.12, alias=0.10, keywords=0.0, name_and_keywords=0.05, style=0.05, category=0.02
)
"""With `Phase.description` above 0, keywords are in a second caption."""

PHASES = (
    Phase("words", steps=450, batch_size=768, image_size=0, lr=2e-3, final_lr=2e-4, warmup=50),
    Phase("small", steps=2400, batch_size=512, image_size=32, lr=1.5e-3, final_lr=5e-4, warmup=150),
    Phase(
        "large",
        steps=1100,
        batch_size=512,
        image_size=64,
        lr=7e-4,
        final_lr=0.0,
        warmup=50,
        colour_weight=4.0,
    ),
    Phase(
        "described",
        steps=500,
        batch_size=512,
        image_size=64,
        lr=6e-4,
        final_lr=0.0,
        warmup=40,
        colour_weight=4.0,
        emoji_weight=5.0,
        mixer=NAMES_FIRST,
        augmentation=Augmentation(recolour=0.4),
        description=0.7,
        average=0.995,
    ),
)
