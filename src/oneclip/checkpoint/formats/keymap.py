"""Rename the tensors of a state dict by a table of rules, in both directions.

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


def unchanged(tensors: Tensors) -> Tensors:
    """Return the tensors unchanged."""
    return tensors


@dataclass(frozen=True)
class Rule:
    """A correspondence between some of their tensors and some of ours, with the same numbers.

    Attributes:
        theirs: names; `*` matches one part of a name (between dots or slashes) or a number inside it, `**` matches any
            number of parts.
        ours: names with as many stars, filled in the same order.
        read: converts their tensors to ours.
        write: converts our tensors to theirs; the exact inverse.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Change = unchanged
    write: Change = unchanged


def renamed(theirs: str, ours: str) -> Rule:
    """Make a rule for one tensor with another name."""
    return Rule((theirs,), (ours,))


def transposed(theirs: str, ours: str) -> Rule:
    """Make a rule for a matrix that is transposed, for example a linear layer stored as (in, out)."""

    def transpose(tensors: Tensors) -> Tensors:
        return (tensors[0].T.contiguous(),)

    return Rule((theirs,), (ours,), transpose, transpose)


def reshaped(theirs: str, ours: str, shape: Sequence[int], their_shape: Sequence[int]) -> Rule:
    """Make a rule for the same numbers in the same order with another shape."""
    return Rule(
        (theirs,),
        (ours,),
        lambda t: (t[0].reshape(tuple(shape)),),
        lambda t: (t[0].reshape(tuple(their_shape)),),
    )


def concatenated(
    theirs: Sequence[str] | str, ours: Sequence[str] | str, shares: Sequence[int] | None = None
) -> Rule:
    """Make a rule for several tensors on one side that are concatenated along their first axis on the other.

    Args:
        theirs: several names, or one name.
        ours: one name, or several names.
        shares: proportion of the several tensors in the single one; equal by default.
    """
    theirs, ours = _as_tuple(theirs), _as_tuple(ours)
    parts = tuple(shares or (1,) * max(len(theirs), len(ours)))

    def concatenate(tensors: Tensors) -> Tensors:
        return (torch.cat(tensors),)

    def split(tensors: Tensors) -> Tensors:
        rows, whole = tensors[0].shape[0] if tensors[0].ndim else 0, sum(parts)
        if rows % whole:
            raise CheckpointError(f"{rows} rows cannot be divided in the proportion {parts}")
        return torch.split(tensors[0], [rows * part // whole for part in parts])

    if len(theirs) > len(ours):
        return Rule(theirs, ours, concatenate, split)
    return Rule(theirs, ours, split, concatenate)


@dataclass(frozen=True)
class KeyMap:
    """All rules between the names of a format and our names.

    Attributes:
        rules: the rules; for each name the first match counts.
        ignored: their names that hold no weights, such as tables of position ids; stars as in rules.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()

    def read(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert their tensors to ours.

        Raises:
            CheckpointError: for a name that matches no rule, or a rule with some of its tensors missing.
        """
        ignored = [_pattern(name) for name in self.ignored]
        weights = {k: v for k, v in state_dict.items() if not any(p.fullmatch(k) for p in ignored)}
        return _apply(self.rules, weights)

    def write(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert our tensors to theirs; raises the same errors as `read`."""
        return _apply([Rule(r.ours, r.theirs, r.write, r.read) for r in self.rules], state_dict)


def _apply(rules: Sequence[Rule], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Apply rules from their left side to their right side."""
    patterns = [[_pattern(name) for name in rule.theirs] for rule in rules]
    groups: dict[
        tuple[int, tuple[str, ...]], dict[int, str]
    ] = {}  # (rule, stars) to position in rule, to name
    unknown = []
    for name in tensors:
        if match := _find_rule(name, patterns):
            row, slot, stars = match
            groups.setdefault((row, stars), {})[slot] = name
        else:
            unknown.append(name)
    if unknown:
        some = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise CheckpointError(f"this format has no tensors named: {some}")
    result: dict[str, Tensor] = {}
    for (row, stars), names in groups.items():
        rule = rules[row]
        if len(names) < len(rule.theirs):
            missing = [_fill(rule.theirs[i], stars) for i in range(len(rule.theirs)) if i not in names]
            raise CheckpointError(f"{', '.join(names.values())} needs {', '.join(missing)}, which is missing")
        try:
            changed = rule.read(tuple(tensors[names[slot]] for slot in range(len(rule.theirs))))
        except (RuntimeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{', '.join(names.values())}: {error}") from error
        result |= {_fill(name, stars): tensor for name, tensor in zip(rule.ours, changed, strict=True)}
    return result


def _find_rule(
    name: str, patterns: Sequence[Sequence[re.Pattern[str]]]
) -> tuple[int, int, tuple[str, ...]] | None:
    """Return the index of the first matching rule, which of its names matches, and the values of the stars."""
    for row, of_rule in enumerate(patterns):
        for slot, pattern in enumerate(of_rule):
            if found := pattern.fullmatch(name):
                return row, slot, found.groups()
    return None


def _pattern(name: str) -> re.Pattern[str]:
    parts = {"*": r"([^./]+)", "**": "(.+)"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in _STARS.split(name)))


def _fill(name: str, stars: Sequence[str]) -> str:
    """Replace the stars of a name by values."""
    values = iter(stars)
    return "".join(next(values) if part in ("*", "**") else part for part in _STARS.split(name))


def _as_tuple(names: Sequence[str] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
