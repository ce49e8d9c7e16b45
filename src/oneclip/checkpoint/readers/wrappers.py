"""Find the model in a state dict that holds more than a model: under a prefix, or beside other layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from oneclip.checkpoint.readers.read_errors import Unsound

_IMAGE_TOWER = re.compile(r"(?:^|(?<=\.))(?=(?:visual|vision_model|image_encoder)\.)")
_TEXT_TOWER = ("token_embedding.weight", "text.", "text_model.", "text_encoder.", "bert.")
# the first parts of all names of models, in any of the formats whose image tower is called as above
_ROOTS = {
    *(
        "visual",
        "token_embedding",
        "positional_embedding",
        "positional_embedding_res",
        "transformer",
        "ln_final",
    ),
    *("text_projection", "logit_scale", "logit_bias", "cls_emb", "attn_mask", "text", "text_decoder"),
    *("input_resolution", "context_length", "vocab_size", "vision_model", "text_model", "visual_projection"),
    *("image_encoder", "text_encoder", "bert", "prompt_learner"),
}
MOST_PREFIXES = 100  # with more of them, no file is a model and a few layers

Value = TypeVar("Value")


def prefixes(names: Iterable[str]) -> list[str]:
    """What stands before the names of an image tower and of a text tower; "" for nothing, first where it is."""
    names = list(names)
    found = {name[: tower.start()] for name in names for tower in _IMAGE_TOWER.finditer(name)}
    if len(found) > MOST_PREFIXES:
        return []
    starts = {prefix: tuple(prefix + start for start in _TEXT_TOWER) for prefix in found}
    return sorted(prefix for prefix in found if any(name.startswith(starts[prefix]) for name in names))


def model_in(tensors: Mapping[str, Value], prefix: str | None = None) -> tuple[dict[str, Value], list[str]]:
    """The tensors of the model in a state dict, without their prefix, and what else is there, in words.

    Args:
        tensors: by name.
        prefix: what stands before the model's names; by default the only one that stands before those of two towers.

    Raises:
        Unsound: if no name has that prefix, or several models are there and none is named.
    """
    if prefix is None:
        found = prefixes(tensors)
        if len(found) > 1 and found[0]:
            raise Unsound(
                f"it holds {len(found)} models, under {' and '.join(map(repr, found[:4]))}: choose one, as in "
                f"oneclip.load(…, prefix={found[0]!r})"
            )
        if not found:
            return dict(tensors), []
        prefix = found[0]
    elif not any(name.startswith(prefix) for name in tensors):
        raise Unsound(f"no tensor in it begins with {prefix!r}; there are {', '.join(_groups(tensors)[:8])}")
    model, others = {}, []
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if name.startswith(prefix) and (prefix or short.partition(".")[0] in _ROOTS):
            model[short] = tensor
        else:
            others.append(name)
    return model, _groups(others)


def _groups(names: Iterable[str]) -> list[str]:
    """Names by their first part, with how many there are of each."""
    counts: dict[str, int] = {}
    for name in names:
        first, dot, _ = name.partition(".")
        counts[first[:40] + dot] = counts.get(first[:40] + dot, 0) + 1
    return [f"{first}* ({count})" if first.endswith(".") else first for first, count in counts.items()]
