"""What a training program saved to the tensors of its model: which part is taken, and without wrappers' prefixes.

Of a file that holds both the weights of a model and their running average (EMA), the weights are taken, as
open_clip does; the average is taken where nothing else is there, or on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from oneclip.checkpoint.readers.read_errors import Unsound
from oneclip.checkpoint.readers.tensor_records import TensorRef
from oneclip.checkpoint.readers.wrappers import prefixes

WEIGHTS = ("state_dict", "model_state_dict", "model", "module")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")

MOST_PLAIN = 10_000  # elements of what is kept beside weights

Value = TypeVar("Value")


def part_of(content: Any, wanted: str | None = None) -> tuple[Mapping[Any, Any], str | None]:
    """The dict of a model's tensors, and by what key it was found; None for the whole.

    Args:
        content: of the file.
        wanted: the key of the part to take, instead of the usual one.

    Raises:
        Unsound: if there is no such part, or no telling which.
    """
    if not isinstance(content, Mapping):
        raise Unsound(f"it holds a {type(content).__name__} where a dict of tensors was expected")
    if wanted is not None:
        if wanted not in parts(content):
            raise Unsound(f"it has no {wanted!r}; it has {', '.join(parts(content)) or 'tensors only'}")
        return content[wanted], wanted
    for keys in (WEIGHTS, AVERAGES):
        found = [key for key in keys if _has_tensors(content.get(key))]
        if len(found) > 1:
            raise Unsound(_choose(found))
        if found:
            return content[found[0]], found[0]
    models = [key for key in parts(content) if prefixes(map(str, content[key]))]
    if len(models) > 1:
        raise Unsound(_choose(models))
    if models:
        return content[models[0]], models[0]
    if any(map(_is_tensor, content.values())):
        return content, None
    if isinstance(content.get("state_dict"), Mapping):
        return content["state_dict"], "state_dict"
    if other := parts(content):
        raise Unsound(
            f"it holds {' and '.join(other[:8])}, none of which looks like a model; if one is, say so, as in "
            f"oneclip.load(…, part={other[0]!r})"
        )
    held = ", ".join(str(key)[:40] for key in list(content)[:8]) or "nothing"
    raise Unsound(f"it holds {held}, where the tensors of a model or a state_dict were expected")


def _choose(found: list[str]) -> str:
    return (
        f"it holds {' and '.join(found)}, and does not say which is the model: choose one, as in "
        f"oneclip.load(…, part={found[0]!r})"
    )


def parts(content: Any) -> list[str]:
    """The keys of everything in a file that could be a model: dicts with tensors in them."""
    if not isinstance(content, Mapping):
        return []
    return [str(key) for key, value in content.items() if isinstance(key, str) and _has_tensors(value)]


def unwrapped(tensors: Mapping[Any, Value]) -> dict[str, Value]:
    """The same tensors without the prefixes that wrappers put before all names.

    A prefix is taken away only where every name has it. `torch.compile` leaves its own inside names, too.

    Raises:
        Unsound: if two names become one.
    """
    named: dict[str, Value] = {}
    for name, tensor in tensors.items():
        short = str(name).replace("_orig_mod.", "")
        if short in named:
            raise Unsound(f"it holds {short[:80]} twice, once as `torch.compile` has it")
        named[short] = tensor
    while named and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in named)), None)):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def plain(value: Any) -> bool:
    """Whether a value is of the kinds that JSON has, and no larger than what people write beside weights."""
    return _room_left(value, MOST_PLAIN, depth=4) >= 0


def _room_left(value: Any, room: int, depth: int) -> int:
    """How many elements there is still room for behind a value; less than none if it is not plain."""
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


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(_is_tensor, value.values()))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | TensorRef)
