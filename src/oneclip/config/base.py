"""Base class of all configurations: conversion from and to plain dicts, with checked types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from oneclip.errors import ConfigError, nearest_names

Cfg = TypeVar("Cfg", bound="BaseCfg")


class BaseCfg:
    """Dataclass that reads plain dicts and writes them."""

    @classmethod
    def from_dict(cls: type[Cfg], values: Mapping[str, Any]) -> Cfg:
        """Make a configuration from a mapping, such as one parsed from JSON.

        Raises:
            ConfigError: on an unknown key, a missing required field, or a value of the wrong type.
        """
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                near = nearest_names(key, known)
                hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known)}"
                raise ConfigError(f"{cls.__name__} has no field {key!r}{hint}")
        for f in fields(cls):  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING and f.name not in values:
                raise ConfigError(f"{cls.__name__} needs {f.name!r}")
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        _check_types(cls, plain)  # before __post_init__ compares values with their ranges
        return cls(**plain)

    def check_types(self) -> None:
        """Check the type of each field: "false" is not a bool, and NaN is not a number.

        Raises:
            ConfigError: on the first value of the wrong type.
        """
        _check_types(type(self), vars(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as values that JSON can hold."""
        values = asdict(self)  # type: ignore[call-overload]
        defaults = {f.name: f.default for f in fields(self)}  # type: ignore[arg-type]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != defaults[k]}


def _check_types(kind: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        hint = _hints(kind)[name]
        if not _matches_type(value, hint):
            expected = hint.__name__ if isinstance(hint, type) else hint
            raise ConfigError(f"{name} is {repr(value)[:60]}; expected {expected}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _matches_type(value: Any, hint: Any) -> bool:
    """Check a value against a type annotation as configurations use them."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return any(_matches_type(value, each) for each in inner)
    if kind is tuple and isinstance(value, tuple) and inner[1:] == (...,):
        return all(_matches_type(each, inner[0]) for each in value)
    if kind is tuple and isinstance(value, tuple):
        return len(value) == len(inner) and all(map(_matches_type, value, inner))
    if kind is float and isinstance(value, int | float):
        return not isinstance(value, bool) and -math.inf < value < math.inf
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
