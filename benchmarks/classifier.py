"""How fast is a zero-shot classifier of ImageNet's prompts built, compared with open_clip_torch?

    python benchmarks/classifier.py [--architecture ViT-B-32] [--classes 25] [--rounds 2]

Each class has 80 prompts; tokenization is included; fp32. Contenders: the published `build_zero_shot_classifier`, the
same program on our `open_clip`, with and without `oneclip.accelerate`, and an `Encoder`. All use the same weights, and
must give the same classifiers: the table shows the worst cosine of two columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from contest import given
from contest.arena import contest, machine, ours, published, serve


def of_published(folder: Path) -> dict[str, Callable[[], Any]]:
    """Build the classifier with the published package."""
    published()
    return {"default": _program(folder)[0]}


def of_facade(folder: Path) -> dict[str, Callable[[], Any]]:
    """Build the classifier with our `open_clip`."""
    ours()
    import oneclip

    run, model = _program(folder)

    def accelerated() -> Any:
        with oneclip.accelerate(model):
            return run()

    return {"default": run, "accelerated": accelerated}


def of_encoder(folder: Path) -> dict[str, Callable[[], Any]]:
    """Build the classifier with an `Encoder`."""
    ours()
    import oneclip
    from oneclip.evaluate import TEMPLATES, zero_shot_classifier

    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "bf16"):
        clip = oneclip.load(folder / "model", device="cpu", precision=precision)

        def encode(captions: list[str], clip: Any = clip) -> torch.Tensor:
            return torch.from_numpy(clip.encode_texts(captions))

        tasks[precision] = lambda encode=encode: zero_shot_classifier(
            encode, _names(folder), TEMPLATES
        ).numpy()
    return tasks


def _program(folder: Path) -> tuple[Callable[[], Any], Any]:
    import open_clip

    name = f"local-dir:{folder / 'model'}"
    model = open_clip.create_model(name).eval()
    tokenizer = open_clip.get_tokenizer(name)

    def run() -> Any:
        return open_clip.build_zero_shot_classifier(
            model,
            tokenizer=tokenizer,
            classnames=_names(folder),
            templates=open_clip.OPENAI_IMAGENET_TEMPLATES,
            num_classes_per_batch=10,
            device="cpu",
        ).numpy()

    return run, model


def _names(folder: Path) -> list[str]:
    return (folder / "classes.txt").read_text(encoding="utf-8").splitlines()


ENTRANTS = {"open_clip_torch": of_published, "our open_clip": of_facade, "Encoder": of_encoder}


def main() -> None:
    serve(ENTRANTS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--classes", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    ours()
    from oneclip.evaluate import class_names

    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given.write_model(folder, options.architecture)
        (folder / "classes.txt").write_text("\n".join(class_names()[: options.classes]), encoding="utf-8")
        results = contest(ENTRANTS, folder, options.rounds)
    base = ("open_clip_torch", "default")
    given.say(f"{options.architecture}, {options.classes} classes of 80 prompts; {options.rounds} rounds")
    given.say(machine())
    given.say()
    given.say(f"{'':30} {'seconds':>8} {'times as fast':>14} {'worst cosine':>13}")
    for way in results.seconds:
        cosine = float(np.min((results.outputs[way] * results.outputs[base]).sum(axis=0)))
        given.say(
            f"{', '.join(way):30} {results.median(*way):>8.2f} {results.ratio(way, base):>14.2f} {cosine:>13.7f}"
        )


if __name__ == "__main__":
    main()
