"""A table of names to a state dict renamed by it, in either direction.

Shapes: C width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oneclip.errors import CheckpointError

_STARS = re.compile(r"(\*+)")
Tensors = tuple[Tensor, ...]
Change = Callable[[Tensors], Tensors]


def as_it_is(tensors: Tensors) -> Tensors:
    """No change."""
    return tensors


@dataclass(frozen=True)
class Rule:
    """Tensors of theirs that hold the same numbers as tensors of ours.

    Attributes:
        theirs: names; a `*` stands for one part of a name, between dots or slashes, or for a number in it; `**` for
            any number of parts.
        ours: names with as many `*`, filled in the same order.
        read: makes ours of theirs.
        write: makes theirs of ours, the exact inverse.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Change = as_it_is
    write: Change = as_it_is


def same(theirs: str, ours: str) -> Rule:
    """One tensor under another name."""
    return Rule((theirs,), (ours,))


def transposed(theirs: str, ours: str) -> Rule:
    """A matrix whose axes change places: the weight of a linear layer, and what multiplies from the right."""

    def swap(tensors: Tensors) -> Tensors:
        return (tensors[0].T.contiguous(),)

    return Rule((theirs,), (ours,), swap, swap)


def reshaped(theirs: str, ours: str, shape: Sequence[int], their_shape: Sequence[int]) -> Rule:
    """The same numbers in the same order, under another shape."""
    return Rule(
        (theirs,),
        (ours,),
        lambda t: (t[0].reshape(tuple(shape)),),
        lambda t: (t[0].reshape(tuple(their_shape)),),
    )


def joined(
    theirs: Sequence[str] | str, ours: Sequence[str] | str, shares: Sequence[int] | None = None
) -> Rule:
    """Several tensors on one side that are a single one on the other, joined along their first axis.

    Args:
        theirs: names, or one name.
        ours: one name, or names.
        shares: how the single tensor divides into the several; equal shares if not given.
    """
    theirs, ours = _names(theirs), _names(ours)
    count = max(len(theirs), len(ours))
    parts = tuple(shares or (1,) * count)

    def join(tensors: Tensors) -> Tensors:
        return (torch.cat(tensors),)

    def split(tensors: Tensors) -> Tensors:
        rows, whole = tensors[0].shape[0] if tensors[0].ndim else 0, sum(parts)
        if rows % whole:
            raise CheckpointError(f"{rows} rows cannot be divided in the proportion {parts}")
        return torch.split(tensors[0], [rows * part // whole for part in parts])

    return Rule(theirs, ours, join, split) if len(theirs) > len(ours) else Rule(theirs, ours, split, join)


@dataclass(frozen=True)
class KeyMap:
    """All rules between the names of a format and ours, read in both directions.

    Attributes:
        rules: the first whose names fit counts.
        ignored: names of theirs that hold no weights (`*` as in rules), such as tables of position numbers.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()

    def read(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors by our names.

        Raises:
            CheckpointError: for a name that no rule knows, or a group that lacks a part.
        """
        skip = [_pattern(name) for name in self.ignored]
        given = {k: v for k, v in state_dict.items() if not any(p.fullmatch(k) for p in skip)}
        return _renamed(given, self.rules)

    def write(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors by their names; raises as `read` does."""
        return _renamed(state_dict, [Rule(r.ours, r.theirs, r.write, r.read) for r in self.rules])


def _renamed(given: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    patterns = [[_pattern(name) for name in rule.theirs] for rule in rules]
    groups: dict[tuple[int, tuple[str, ...]], dict[int, str]] = {}
    unknown = []
    for name in given:
        if place := _place(name, patterns):
            row, slot, stars = place
            groups.setdefault((row, stars), {})[slot] = name
        else:
            unknown.append(name)
    if unknown:
        some = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise CheckpointError(f"tensors that this format has no place for: {some}")
    renamed: dict[str, Tensor] = {}
    for (row, stars), names in groups.items():
        rule = rules[row]
        if len(names) < len(rule.theirs):
            raise CheckpointError(f"{', '.join(names.values())} came without the tensors that belong to it")
        try:
            made = rule.read(tuple(given[names[slot]] for slot in range(len(rule.theirs))))
        except (RuntimeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{', '.join(names.values())}: {error}") from error
        renamed |= {_filled(name, stars): tensor for name, tensor in zip(rule.ours, made, strict=True)}
    return renamed


def _place(
    name: str, patterns: Sequence[Sequence[re.Pattern[str]]]
) -> tuple[int, int, tuple[str, ...]] | None:
    """The first rule that knows a name, which of the rule's names it is, and what its `*` stand for."""
    for row, of_rule in enumerate(patterns):
        for slot, pattern in enumerate(of_rule):
            if found := pattern.fullmatch(name):
                return row, slot, found.groups()
    return None


def _pattern(name: str) -> re.Pattern[str]:
    parts = {"*": r"([^./]+)", "**": "(.+)"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in _STARS.split(name)))


def _filled(name: str, stars: Sequence[str]) -> str:
    following = iter(stars)
    return "".join(next(following) if part in ("*", "**") else part for part in _STARS.split(name))


def _names(names: Sequence[str] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
