"""Embeddings of the labels of POST /v1/classify, kept for further requests with the same labels.

Shapes: M labels, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from oneclip.errors import TextError
from oneclip.serve.errors import ItemError
from oneclip.serve.items import bad_item, check_text, item_error
from oneclip.serve.recent_cache import RecentCache
from oneclip.text.labels import check_distinct, label_prompts
from oneclip.text.prompts import has_placeholder

if TYPE_CHECKING:
    from oneclip.encoding import Features
    from oneclip.serve.embedder import Embedder

CACHE_BYTES = 64 * 2**20
TEXTS_AT_ONCE = 256  # so that many labels do not fill the queue

_KEPT: WeakKeyDictionary[Embedder, RecentCache[Features]] = WeakKeyDictionary()


async def embed_labels(
    labels: Sequence[object], template: str | Sequence[str] | None, embedder: Embedder
) -> Features:
    """Encode labels as `Encoder.encode_labels` does, in the queue of texts.

    Args:
        labels: M labels of a request.
        template: a sentence with `{}` in place of the label, or several whose embeddings are averaged.
        embedder: of the server.

    Returns:
        (M, D) float32 of unit length.

    Raises:
        RequestError: 400, naming the label or the template that is not valid; and what the embedder raises.
    """
    names = _checked_labels(labels, embedder)
    templates = _checked_templates(template)
    kept = _KEPT.setdefault(embedder, RecentCache(CACHE_BYTES, lambda features: features.nbytes))
    key = (tuple(names), templates)
    if (features := kept.get(key)) is None:
        features = await _embed(names, templates, embedder)
        kept.put(key, features)
    return features


def _checked_labels(labels: Sequence[object], embedder: Embedder) -> list[str]:
    first: dict[str, int] = {}
    for i, label in enumerate(labels):
        param = f"labels[{i}]"
        text = check_text(label, param)
        if not text.strip():
            raise bad_item(f"{param} is empty; give words that describe an image", param, "invalid_value")
        if first.setdefault(text, i) != i:
            raise bad_item(
                f"{param} is the same as labels[{first[text]}]; leave one out", param, "invalid_value"
            )
    if len(first) < 2 and embedder.encoder.logit_bias is None:
        raise bad_item(f"expected at least two labels; found {len(first)}", "labels", "invalid_value")
    if not first:
        raise bad_item("expected at least one label; found none", "labels", "invalid_value")
    return list(first)


def _checked_templates(template: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if template is None:
        return None
    several = [(template, "template")]
    if not isinstance(template, str):
        several = [(one, f"template[{i}]") for i, one in enumerate(template)]
        if not several:
            raise bad_item("template is an empty list", "template", "invalid_value")
    for text, param in several:
        if not has_placeholder(check_text(text, param)):
            raise bad_item(
                f"{param} has no {{}} where the label goes: 'a photo of a {{}}'", param, "invalid_value"
            )
    return tuple(str(text) for text, _ in several)


async def _embed(names: list[str], templates: tuple[str, ...] | None, embedder: Embedder) -> Features:
    texts = [text for row in label_prompts(names, templates) for text in row]
    encoder, parts = embedder.encoder, []
    per_label = len(texts) // len(names)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        try:
            parts.append((await embedder.embed_texts(texts[start : start + TEXTS_AT_ONCE]))[0])
        except ItemError as error:
            raise item_error(error.error, f"labels[{(start + error.index) // per_label}]") from error
    ids = await embedder.run(encoder.token_ids, texts)
    try:
        check_distinct(names, ids.reshape(len(names), -1))
    except TextError as error:
        raise bad_item(str(error), "labels", "invalid_value") from error
    features: Features = np.concatenate(parts)
    return features if per_label == 1 else encoder.mean_of_prompts(features, len(names))
