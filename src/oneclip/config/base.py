"""Base of all configurations: read from plain dicts with types checked, written back without defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from oneclip.errors import ConfigError, nearest

Cfg = TypeVar("Cfg", bound="BaseCfg")


class BaseCfg:
    """Reading from and writing to plain dicts, with unknown keys named."""

    @classmethod
    def from_dict(cls: type[Cfg], values: Mapping[str, Any]) -> Cfg:
        """Make a configuration from a mapping, such as one parsed from JSON.

        Raises:
            ConfigError: on a key that is no field, a required field that is missing, or a value of another type than
                its field has.
        """
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                near = nearest(key, known)
                hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known)}"
                raise ConfigError(f"{cls.__name__} has no field {key!r}{hint}")
        for f in fields(cls):  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING and f.name not in values:
                raise ConfigError(f"{cls.__name__} needs {f.name!r}, which is missing")
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        _check_types(cls, plain)  # before a class compares them with its ranges
        return cls(**plain)

    def check_types(self) -> None:
        """Look whether each value is of the type of its field: "false" is no bool, and NaN no number.

        Raises:
            ConfigError: for the first that is not.
        """
        _check_types(type(self), vars(self))

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values that JSON can hold."""
        values = asdict(self)  # type: ignore[call-overload]
        defaults = {f.name: f.default for f in fields(self)}  # type: ignore[arg-type]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != defaults[k]}


def _check_types(kind: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        hint = _hints(kind)[name]
        if not _is_of(value, hint):
            expected = hint.__name__ if isinstance(hint, type) else hint
            raise ConfigError(f"{name} is {repr(value)[:60]}; {expected} was expected")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as those of the fields below are written."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return any(_is_of(value, each) for each in inner)
    if kind is tuple and isinstance(value, tuple) and inner[1:] == (...,):
        return all(_is_of(each, inner[0]) for each in value)
    if kind is tuple and isinstance(value, tuple):
        return len(value) == len(inner) and all(map(_is_of, value, inner))
    if kind is float and isinstance(value, int | float):
        return not isinstance(value, bool) and -math.inf < value < math.inf
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
