"""How far are the embeddings of each precision from fp32, at worst, over a thousand images and texts?

    python benchmarks/distance.py [--models ViT-B-32 ViT-B-16-SigLIP pocket] [--count 1000]

Crops of photographs, and ImageNet prompts, are encoded by an `Encoder` in every precision and by the plain module in
fp32, in batches of 32. The table shows the worst and the median cosine of the two embeddings. Architectures get random
weights, pocket has its own. For scale, the table also shows the median cosine of two different images (or texts).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from contest import given, photographs
from contest.arena import machine, ours

BATCH = 32


def reference(clip: Any, images: list[Any], captions: list[str]) -> dict[str, Any]:
    """Compute unit-length embeddings with the plain module."""
    with torch.inference_mode():
        pixels = (torch.stack([clip.preprocess(p) for p in images[i : i + BATCH]]) for i in starts(images))
        ids = (clip.tokenizer(captions[i : i + BATCH]) for i in starts(captions))
        return {
            "images": torch.cat([clip.model.encode_image(x, normalize=True) for x in pixels]).numpy(),
            "captions": torch.cat([clip.model.encode_text(x, normalize=True) for x in ids]).numpy(),
        }


def starts(items: list[Any]) -> range:
    return range(0, len(items), BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "pocket"])
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    ours()
    import oneclip
    from oneclip.evaluate import TEMPLATES, class_names

    images = list(photographs.crops(options.count, (320, 240)))
    prompts = [TEMPLATES[i % 80].format(name) for i, name in enumerate(class_names())]
    captions = list(dict.fromkeys(prompts))[: options.count]
    given.say(machine())
    for name in options.models:
        with TemporaryDirectory() as temporary:
            where = name
            if name != "pocket":
                given.write_model(Path(temporary), name)
                where = str(Path(temporary) / "model")
            clip = oneclip.load(where, device="cpu")
            exact = reference(clip, images, captions)
            given.say()
            given.say(f"{name:29} {'worst cosine':>13} {'median':>11}")
            for precision in ("fp32", "bf16", "int8"):
                clip = oneclip.load(where, device="cpu", precision=precision)
                found = {"images": clip.encode_images(images), "captions": clip.encode_texts(captions)}
                for kind, vectors in found.items():
                    cosines = (vectors.astype(float) * exact[kind].astype(float)).sum(axis=1)
                    given.say(
                        f"  {precision + ', ' + kind:27} {cosines.min():>13.7f} {np.median(cosines):>11.7f}"
                    )
            for kind, vectors in exact.items():
                given.say(f"  two different {kind:13} {'':>13} {np.median(vectors @ vectors.T):>11.4f}")


if __name__ == "__main__":
    main()
