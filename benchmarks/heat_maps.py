"""Do heat maps point at the right place, and do the places matter to the model?

    python benchmarks/heat_maps.py [--composites 60] [--seeds 0 1 2] [--tower pocket|vit|siglip]

The model is pocket, the images are its held-out drawings, which it was not trained on.

Pointing game (Zhang et al. 2018): a composite shows four drawings of one style in its quarters. A map of the name of
one of them, contrasted with the names of the other three, hits if its peak lies in the right quarter; chance is 0.25.
A model that does not know a drawing cannot point at it, whatever the map, so the game is played twice: on composites
whose four drawings the model tells apart when each is shown alone, and on all. `alone` is the share of the names that
find their drawing among the four shown alone, the most that a map can be expected to reach.

Deletion and insertion (Petsiuk et al. 2018): the pixels of a composite that the model knows take its mean colour, those
with the highest values first, and the probability of the name among the four is averaged over the steps; lower is
better. Insertion starts from the mean colour; higher is better. `random` takes blocks of 16 pixels in random order.

With `--tower`, a small tower of another structure takes the place of pocket's. It learns in some minutes to tell shapes
of several colours on noise, and the composites show four of them. No published model of that structure is small enough
to come with this repository: the figures show that the maps of the structure work, not how good those of a published
model are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from contest.arena import machine, ours
from PIL import Image, ImageDraw

SIDE = 64  # pixels of a drawing
STEPS = 8  # of deletion and insertion
METHODS = ("dense", "gradient", "windows")
COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 40)}
SHAPES = ("square", "circle", "triangle")


@dataclass
class Composite:
    """Four drawings in the quarters of an image, with their names."""

    style: str
    image: Image.Image
    drawings: list[Image.Image]
    names: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--composites", type=int, default=60, help="per seed, a third of each style")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tower", choices=["pocket", "vit", "siglip"], default="pocket")
    parser.add_argument("--steps", type=int, default=500, help="of the training of another tower")
    parser.add_argument(
        "--curves", type=int, default=20, help="composites for deletion and insertion, per seed"
    )
    options = parser.parse_args()
    ours()
    import oneclip

    encoder: Any = oneclip.load("pocket", device="cpu")
    if options.tower != "pocket":
        encoder = train_on_shapes(options.tower, options.steps)
    methods = [name for name in METHODS if name != "gradient" or options.tower != "pocket"]
    print(machine())
    print(f"{encoder.name}: {4 * options.composites} points per seed")
    pointing: dict[str, list[list[float]]] = {}
    for seed in options.seeds:
        composites = draw(seed, options.composites, options.tower)
        known, alone = recognised(encoder, composites)
        pointing.setdefault("alone", []).append([alone[known].mean(), alone.mean()])
        for method in methods:
            hits = np.array([hits_of(encoder, one, method) for one in composites])
            pointing.setdefault(method, []).append([hits[known].mean(), hits.mean()])
        print(f"seed {seed}: {known.sum()} of {len(known)} composites are known to the model")
    print(f"\n{'pointing game':<14}{'told apart, per seed':<32}{'all, per seed'}")
    for name, rows in pointing.items():
        told, every = (" ".join(f"{row[i]:.3f}" for row in rows) for i in (0, 1))
        print(f"{name:<14}{told:<32}{every}")
    print(f"\n{'':<14}{'deletion':>10}{'insertion':>10}   (lower, higher is better)")
    composites = [one for seed in options.seeds for one in draw(seed, options.curves, options.tower)]
    known, _ = recognised(encoder, composites)
    composites = [one for one, is_known in zip(composites, known, strict=True) if is_known]
    for name in (*methods, "random"):
        areas = np.array([curves(encoder, one, name, index) for index, one in enumerate(composites)]).mean(
            axis=0
        )
        print(f"{name:<14}{areas[0]:>10.3f}{areas[1]:>10.3f}")


def draw(seed: int, count: int, tower: str) -> list[Composite]:
    """Draw composites: of pocket's held-out drawings, or of shapes for another tower."""
    from oneclip.evaluate import load_pocket_heldout

    if tower != "pocket":
        return Shapes(seed).composites(count)
    random = np.random.default_rng(seed)
    tasks = load_pocket_heldout().tasks
    composites: list[Composite] = []
    while len(composites) < count:
        task: Any = tasks[len(composites) % len(tasks)]
        chosen = random.choice(len(task.images), 4, replace=False)
        names, drawings = [task.texts[i] for i in chosen], [task.images[i] for i in chosen]
        if len({name.casefold() for name in names}) == 4:
            composites.append(Composite(task.name, composed(drawings), drawings, names))
    return composites


def composed(drawings: list[Image.Image]) -> Image.Image:
    """Put four drawings into the quarters of an image."""
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    for index, drawing in enumerate(drawings):
        image.paste(drawing, (index % 2 * SIDE, index // 2 * SIDE))
    return image


def recognised(encoder: Any, composites: list[Composite]) -> tuple[Any, Any]:
    """Return which composites have four drawings that the model distinguishes when each is shown alone.

    Returns:
        (C,) for each composite, and (C, 4) whether each name finds its drawing among the four.
    """
    alone, known = [], []
    for one in composites:
        cosines = encoder.encode_images(one.drawings) @ encoder.encode_texts(one.names).T
        alone.append(cosines.argmax(axis=0) == np.arange(4))
        known.append(bool(alone[-1].all() and (cosines.argmax(axis=1) == np.arange(4)).all()))
    return np.array(known), np.array(alone)


def hits_of(encoder: Any, one: Composite, method: str) -> list[bool]:
    """Return for each name whether the peak of its map lies in its quarter."""
    maps = encoder.explain(one.image, one.names, method=method)
    return [
        (peak.x >= SIDE, peak.y >= SIDE) == (bool(index % 2), bool(index // 2))
        for index in range(4)
        for peak in [maps.peak(index)]
    ]


def curves(encoder: Any, one: Composite, method: str, seed: int) -> tuple[float, float]:
    """Return the areas under the curves of deletion and insertion, for one of the four names."""
    target = seed % 4
    if method == "random":
        cells = np.random.default_rng(seed).random((8, 8))
        values = np.kron(cells, np.ones((SIDE // 4, SIDE // 4)))
    else:
        values = encoder.explain(one.image, one.names, method=method).values[target]
    pixels = np.asarray(one.image)
    blank = np.broadcast_to(pixels.reshape(-1, 3).mean(axis=0).astype(np.uint8), pixels.shape)
    rank = np.argsort(np.argsort(-values, axis=None, kind="stable")).reshape(values.shape) / values.size
    shares = (np.arange(STEPS) + 0.5) / STEPS
    deleted = [np.where((rank < share)[..., None], blank, pixels) for share in shares]
    inserted = [np.where((rank < share)[..., None], pixels, blank) for share in shares]
    texts = encoder.encode_texts(one.names)
    chances = encoder.probabilities(encoder.encode_images([*deleted, *inserted]), texts)[:, target]
    return float(chances[:STEPS].mean()), float(chances[STEPS:].mean())


class Shapes:
    """Images of coloured shapes on noise, with names such as "a red circle"."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.names = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]

    def shape(self, which: int) -> Image.Image:
        """Draw a shape of a random size at a random place."""
        noise = self.random.integers(90, 166, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        radius = int(self.random.integers(9, 20))
        x, y = (int(place) for place in self.random.integers(radius, SIDE - radius, 2))
        color, shape = list(COLORS.values())[which // len(SHAPES)], SHAPES[which % len(SHAPES)]
        box, draw = (x - radius, y - radius, x + radius, y + radius), ImageDraw.Draw(image)
        if shape == "square":
            draw.rectangle(box, fill=color)
        elif shape == "circle":
            draw.ellipse(box, fill=color)
        else:
            draw.polygon(((x, y - radius), (x - radius, y + radius), (x + radius, y + radius)), fill=color)
        return image

    def composites(self, count: int) -> list[Composite]:
        """Draw composites of four shapes of different colours."""
        made = []
        for _ in range(count):
            shapes = self.random.integers(len(SHAPES), size=len(COLORS))
            chosen = self.random.permutation(np.arange(len(COLORS)) * len(SHAPES) + shapes)
            drawings = [self.shape(int(which)) for which in chosen]
            made.append(
                Composite("shapes", composed(drawings), drawings, [self.names[which] for which in chosen])
            )
        return made


def train_on_shapes(kind: str, steps: int) -> Any:
    """Train a small model of another structure to tell shapes; returns its encoder."""
    import torch
    from torch.nn import functional as F

    import oneclip
    from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
    from oneclip.image import Preprocess
    from oneclip.model import build_model
    from oneclip.text import CLIPTokenizer

    torch.manual_seed(0)
    vision = CLIPVisionCfg(
        layers=3,
        width=64,
        head_width=16,
        patch_size=8,
        image_size=SIDE,
        mlp_ratio=2.0,
        pool_type={"vit": "tok", "siglip": "map"}[kind],
    )
    cfg = ModelCfg(64, vision, CLIPTextCfg(context_length=16, width=64, heads=2, layers=1))
    model: Any = build_model(cfg)
    preprocess, tokenizer = Preprocess(PreprocessCfg(size=SIDE)), CLIPTokenizer(context_length=16)
    shapes = Shapes(1000)
    ids = tokenizer(shapes.names)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        labels = torch.from_numpy(shapes.random.integers(len(shapes.names), size=32))
        pixels = torch.stack([preprocess(shapes.shape(int(label))) for label in labels])
        logits = 20 * model.encode_image(pixels, normalize=True) @ model.encode_text(ids, normalize=True).T
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(20)))
    return oneclip.Encoder(model.eval(), preprocess, tokenizer, cfg, name=f"a small {kind}")


if __name__ == "__main__":
    main()
