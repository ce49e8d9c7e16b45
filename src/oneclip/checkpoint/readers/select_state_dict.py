"""Select the tensors of a model from what a file contains, and remove the prefixes of wrappers.

If a file has both the weights of a model and their moving average (EMA), the weights are taken, as open_clip does; the
average is taken on request, or if there is nothing else. A state dict may contain more than a model: the model is then
found by the names of its towers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from oneclip.checkpoint.readers.read_errors import MalformedFile
from oneclip.checkpoint.readers.tensor_records import TensorRef

WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")
MAX_PLAIN_ELEMENTS = 10_000  # in a value that is kept as metadata
MAX_PREFIXES = 100  # a file with more of them is not a model with a few other layers

_IMAGE_TOWER = re.compile(r"(?:^|(?<=\.))(?=(?:visual|vision_model|image_encoder)\.)")
_TEXT_TOWER = ("token_embedding.weight", "text.", "text_model.", "text_encoder.", "bert.")
# First parts of the tensor names of a model, in all formats that `_IMAGE_TOWER` matches.
_MODEL_ROOTS = {
    *("visual", "token_embedding", "positional_embedding", "positional_embedding_res", "transformer"),
    *("ln_final", "text_projection", "logit_scale", "logit_bias", "cls_emb", "attn_mask", "text"),
    *("text_decoder", "input_resolution", "context_length", "vocab_size", "vision_model", "text_model"),
    *("visual_projection", "image_encoder", "text_encoder", "bert", "prompt_learner"),
}

Value = TypeVar("Value")


def select_part(content: Any, wanted: str | None = None) -> tuple[Mapping[Any, Any], str | None]:
    """Return the dict with a model's tensors, and its key; the key is None for the whole content.

    Args:
        content: of the file.
        wanted: the key of the part to take, instead of the usual one.

    Raises:
        MalformedFile: if the part does not exist, or several parts could be meant.
    """
    if not isinstance(content, Mapping):
        raise MalformedFile(f"it contains a {type(content).__name__}; expected a dict of tensors")
    if wanted is not None:
        if wanted not in list_parts(content):
            raise MalformedFile(
                f"it has no {wanted!r}; it has {', '.join(list_parts(content)) or 'only tensors'}"
            )
        return content[wanted], wanted
    for keys in (WEIGHT_KEYS, EMA_KEYS):
        found = [key for key in keys if _has_tensors(content.get(key))]
        if len(found) > 1:
            raise MalformedFile(_ambiguous_parts(found))
        if found:
            return content[found[0]], found[0]
    models = [key for key in list_parts(content) if find_prefixes(map(str, content[key]))]
    if len(models) > 1:
        raise MalformedFile(_ambiguous_parts(models))
    if models:
        return content[models[0]], models[0]
    if any(map(_is_tensor, content.values())):
        return content, None
    if isinstance(content.get("state_dict"), Mapping):
        return content["state_dict"], "state_dict"
    if other := list_parts(content):
        raise MalformedFile(
            f"it has {' and '.join(other[:8])}, none of which looks like a model; if one is, choose it, as in "
            f"oneclip.load(…, part={other[0]!r})"
        )
    keys_found = ", ".join(str(key)[:40] for key in list(content)[:8]) or "nothing"
    raise MalformedFile(f"it contains {keys_found}; expected the tensors of a model, or a state_dict")


def _ambiguous_parts(found: list[str]) -> str:
    return (
        f"it has {' and '.join(found)}, and does not say which is the model: choose one, as in "
        f"oneclip.load(…, part={found[0]!r})"
    )


def list_parts(content: Any) -> list[str]:
    """List the keys of everything that could be a model: dicts with tensors in them."""
    if not isinstance(content, Mapping):
        return []
    return [str(key) for key, value in content.items() if isinstance(key, str) and _has_tensors(value)]


def strip_prefixes(tensors: Mapping[Any, Value]) -> dict[str, Value]:
    """Remove the prefixes that wrappers add to all names.

    A prefix is removed only if every name has it. The prefix of `torch.compile` is also removed inside names.

    Raises:
        MalformedFile: if two names become equal.
    """
    named: dict[str, Value] = {}
    for name, tensor in tensors.items():
        short = str(name).replace("_orig_mod.", "")
        if short in named:
            raise MalformedFile(f"it has {short[:80]} twice, once with the prefix of `torch.compile`")
        named[short] = tensor
    while named and (
        prefix := next((p for p in WRAPPER_PREFIXES if all(n.startswith(p) for n in named)), None)
    ):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def find_prefixes(names: Iterable[str]) -> list[str]:
    """List, sorted, every prefix before the names of both an image tower and a text tower; "" for no prefix."""
    names = list(names)
    found = {name[: tower.start()] for name in names for tower in _IMAGE_TOWER.finditer(name)}
    if len(found) > MAX_PREFIXES:
        return []
    starts = {prefix: tuple(prefix + start for start in _TEXT_TOWER) for prefix in found}
    return sorted(prefix for prefix in found if any(name.startswith(starts[prefix]) for name in names))


def extract_model(
    tensors: Mapping[str, Value], prefix: str | None = None
) -> tuple[dict[str, Value], list[str]]:
    """Return the tensors of the model, without their prefix, and a summary of the other names.

    Args:
        tensors: by name.
        prefix: of the model's names; by default the only prefix that two towers have.

    Raises:
        MalformedFile: if no name has the prefix, or there are several models and `prefix` is not given.
    """
    if prefix is None:
        found = find_prefixes(tensors)
        if len(found) > 1 and found[0]:
            raise MalformedFile(
                f"it contains {len(found)} models, under {' and '.join(map(repr, found[:4]))}: choose one, as in "
                f"oneclip.load(…, prefix={found[0]!r})"
            )
        if not found:
            return dict(tensors), []
        prefix = found[0]
    elif not any(name.startswith(prefix) for name in tensors):
        raise MalformedFile(
            f"no tensor in it begins with {prefix!r}; it has {', '.join(_summarize_names(tensors)[:8])}"
        )
    model, others = {}, []
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if name.startswith(prefix) and (prefix or short.partition(".")[0] in _MODEL_ROOTS):
            model[short] = tensor
        else:
            others.append(name)
    return model, _summarize_names(others)


def is_plain(value: Any) -> bool:
    """Report whether a value has only the types of JSON, and a size that is usual for metadata."""
    return _room_left(value, MAX_PLAIN_ELEMENTS, depth=4) >= 0


def _room_left(value: Any, room: int, depth: int) -> int:
    """Subtract the number of elements of a value from `room`; negative if the value is not plain."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            return -1
        value = list(value.values())
    if isinstance(value, list | tuple):
        room = room - len(value) if depth else -1
        for item in value if room >= 0 else ():
            if (room := _room_left(item, room, depth - 1)) < 0:
                break
        return room
    return room if isinstance(value, str | int | float | None) else -1


def _summarize_names(names: Iterable[str]) -> list[str]:
    """Group names by their first part, with the number of names in each group."""
    counts: dict[str, int] = {}
    for name in names:
        first, dot, _ = name.partition(".")
        counts[first[:40] + dot] = counts.get(first[:40] + dot, 0) + 1
    return [f"{first}* ({count})" if first.endswith(".") else first for first, count in counts.items()]


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(_is_tensor, value.values()))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | TensorRef)
