"""Does a relevance tell images that show a text from images that do not, better than the cosine?

    python benchmarks/relevance.py

The model is pocket, the images are 500 drawings of three styles that it was not trained on, each with its name. Four
questions, each answered by the area under the ROC curve (AUC) over all scores of a style, with one threshold:

  pairs     an image with its own name, against the same image with the name of another
  absent    names whose image is among a random half of the images, against the names of the other half: the best score
            that any image of the half gets. Mean of 20 halves
  copies    the same with five distorted copies of each image, so that a name has several right answers
  foreign   names of the style, against names of ImageNet's classes that share no word with any name: the best score
            among all images

All three styles were in view when the share of log Z was set to a half, a round number that was not tuned further. The
1,000 class names contain the foreign names, which is why they excel there. The softmax over images excels at `absent`
and `copies` because few images fit a name: of 300 images of dogs, each would get 1/300 on average.

The second table shows relevance as a cut: precision and recall of all pairs at or above it, the images per name that
stay, and the share of names without a right image that keep one: those of the style, with the right image left out, and
foreign names. The third table shows how often a pair with a relevance is right, which depends on how many pairs are.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from contest import given
from contest.arena import machine, ours
from PIL import Image

COPIES = 5
HALVES = 20
CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)
BINS = (0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1)
Scores = Callable[[Any, Any], Any]  # (N, D) images and (M, D) texts to (N, M)


@dataclass
class Style:
    """Embeddings of one style.

    Attributes:
        images, texts: (N, D); text i is the name of image i.
        copies: (N * COPIES, D); the copies of an image follow each other.
    """

    name: str
    images: Any
    texts: Any
    copies: Any


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    ours()
    import oneclip
    from oneclip.evaluate import class_names, load_pocket_heldout
    from oneclip.search.relevance import SHARE, RelevanceModel, generic_texts

    clip = oneclip.load("pocket", device="cpu")
    draw = random.Random(0)
    tasks = load_pocket_heldout().tasks
    styles = [
        Style(
            task.name,
            clip.encode_images(task.images),
            clip.encode_texts(task.texts),
            clip.encode_images([distorted(image, draw) for image in task.images for _ in range(COPIES)]),
        )
        for task in tasks
    ]
    known = {word for task in tasks for text in task.texts for word in words_of(text)}
    foreign = clip.encode_texts([name for name in class_names() if not words_of(name) & known])
    model = RelevanceModel.from_encoder(clip)

    given.say(machine())
    given.say(
        f"{len(generic_texts())} generic texts, {len(foreign)} foreign names, logit scale {model.scale:.1f}"
    )
    given.say()
    heads = "".join(f"{f'{style.name} ({len(style.images)})':^31}" for style in styles)
    given.say(f"{'AUC':35}{heads}")
    given.say(f"{'':35}" + f"{'pairs':>7}{'absent':>8}{'copies':>8}{'foreign':>8}" * len(styles))
    for name, scores in contenders(clip, model).items():
        row = [value for style in styles for value in measure(scores, style, foreign)]
        given.say(f"{name:35}" + "".join(f"{v:>{7 if i % 4 == 0 else 8}.3f}" for i, v in enumerate(row)))
    for name, share in (("all of log Z", 1.0), ("half: relevance", SHARE)):
        given.say()
        say_cuts(name, scores_of(model, share), styles, foreign)
    given.say()
    say_reliability(scores_of(model, SHARE), styles)


def scores_of(model: Any, share: float) -> Scores:
    """Return the scaled cosine less log Z, of which `share` is the image's own and the rest the mean."""

    def scores(images: Any, texts: Any) -> Any:
        own = model.log_normalizers(images)
        return model.scale * images @ texts.T - (share * own + (1 - share) * own.mean())[:, None]

    return scores


def contenders(clip: Any, model: Any) -> dict[str, Scores]:
    """Return what is compared. Relevance is a logit here: a sigmoid does not change an AUC."""
    from dataclasses import replace

    from oneclip.evaluate import class_names

    scale, texts = model.scale, model.texts
    same, spread = np.triu_indices(len(texts), 1), texts @ texts.T
    limit = np.quantile(spread[same], 0.99)

    def z_score(images: Any, queries: Any) -> Any:
        generic = images @ texts.T
        return (images @ queries.T - generic.mean(1)[:, None]) / generic.std(1)[:, None]

    def per_query(images: Any, queries: Any) -> Any:
        cosines = images @ queries.T
        return (cosines - cosines.mean(0)) / cosines.std(0)

    def without_near(images: Any, queries: Any) -> Any:
        sums, kept = np.exp(scale * images @ texts.T), queries @ texts.T < limit
        return scale * images @ queries.T - np.log(np.maximum(sums @ kept.T, 1e-3 * sums.sum(1)[:, None]))

    def over_collection(images: Any, queries: Any) -> Any:
        logits = scale * images @ queries.T
        return logits - np.logaddexp.reduce(logits, axis=0)

    def less_hubness(images: Any, queries: Any) -> Any:
        return images @ queries.T - 0.5 * (images @ queries.T).mean(0)

    temperature = replace(model, scale=model.scale / 2)
    names = replace(model, texts=clip.encode_texts(class_names()))
    return {
        "cosine": lambda images, queries: images @ queries.T,
        "all of log Z": scores_of(model, 1),
        "  a quarter of log Z": scores_of(model, 0.25),
        "  half of log Z: relevance": scores_of(model, 0.5),
        "  three quarters": scores_of(model, 0.75),
        "  all, half the logit scale": scores_of(temperature, 1),
        "  all, 50 of the texts": scores_of(replace(model, texts=texts[::4]), 1),
        "  half, 50 of the texts": scores_of(replace(model, texts=texts[::4]), 0.5),
        "  all, 1,000 class names": scores_of(names, 1),
        "  half, 1,000 class names": scores_of(names, 0.5),
        "  all, without texts near the query": without_near,
        "z-score over the generic texts": z_score,
        "z-score of the query over images": per_query,
        "cosine less half the query's mean": less_hubness,
        "softmax of the query over images": over_collection,
    }


def measure(scores: Scores, style: Style, foreign: Any) -> list[float]:
    """Return the AUC of pairs, absent names, absent names among copies, and foreign names."""
    plain = scores(style.images, style.texts)
    own = np.eye(len(plain), dtype=bool)
    return [
        auc(plain[own], plain[~own]),
        of_halves(plain, 1),
        of_halves(scores(style.copies, style.texts), COPIES),
        auc(plain.max(0), scores(style.images, foreign).max(0)),
    ]


def of_halves(scores: Any, copies: int) -> float:
    """Return the mean AUC of the best scores of names whose images are in a random half, against the others."""
    count = scores.shape[1]
    scores, draw, found = scores.reshape(count, copies, count), np.random.default_rng(0), []
    for _ in range(HALVES):
        half = np.zeros(count, bool)
        half[draw.permutation(count)[: count // 2]] = True
        best = scores[half].reshape(-1, count).max(0)
        found.append(auc(best[half], best[~half]))
    return float(np.mean(found))


def auc(present: Any, absent: Any) -> float:
    """Return the probability that a present score is greater than an absent one; ties count half."""
    absent = np.sort(absent)
    places = np.searchsorted(absent, present, "left") + np.searchsorted(absent, present, "right")
    return float(places.mean() / 2 / len(absent))


def say_cuts(name: str, scores: Scores, styles: list[Style], foreign: Any) -> None:
    given.say(
        f"{name:24}{'cut':>5}{'precision':>11}{'recall':>8}{'images/name':>13}{'absent':>8}{'foreign':>9}"
    )
    for style in styles:
        plain = scores(style.images, style.texts)
        own = np.eye(len(plain), dtype=bool)
        others, names = np.where(own, -np.inf, plain).max(0), scores(style.images, foreign).max(0)
        for cut in CUTS:
            kept = plain >= np.log(cut / (1 - cut))
            rest = [np.mean(best >= np.log(cut / (1 - cut))) for best in (others, names)]
            given.say(
                f"  {style.name:22}{cut:>5}{own[kept].mean():>11.2f}{kept[own].mean():>8.2f}"
                f"{kept.sum() / len(plain):>13.2f}{rest[0]:>8.2f}{rest[1]:>9.2f}"
            )


def say_reliability(scores: Scores, styles: list[Style]) -> None:
    given.say(f"{'relevance from, to':24}" + "".join(f"{style.name:>18}" for style in styles))
    tables = [(1 / (1 + np.exp(-scores(style.images, style.texts)))) for style in styles]
    for low, high in itertools.pairwise(BINS):
        cells = []
        for table in tables:
            inside = (table >= low) & (table < high)
            right = np.eye(len(table), dtype=bool)[inside]
            cells.append(f"{right.mean() if len(right) else 0:.4f} of {len(right)}")
        given.say(f"  {f'{low}, {high}':22}" + "".join(f"{cell:>18}" for cell in cells))


def words_of(text: str) -> set[str]:
    return {word for word in re.findall("[a-z]+", text.lower()) if len(word) > 2}


def distorted(image: Image.Image, draw: random.Random) -> Image.Image:
    """Mirror, turn, shrink and move an image."""
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle, size = draw.uniform(-20, 20), int(image.width * draw.uniform(0.65, 1))
    image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    page = Image.new("RGB", image.size, "white")
    room = image.width - size
    page.paste(
        image.resize((size, size), Image.Resampling.BICUBIC), (draw.randint(0, room), draw.randint(0, room))
    )
    return page


if __name__ == "__main__":
    main()
