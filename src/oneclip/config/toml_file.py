"""A TOML file to settings and back: flat, one line a setting."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from oneclip.config.base import BaseCfg
from oneclip.config.schema import settings_of, to_flat, unknown
from oneclip.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_settings(path: str | Path, kind: type[BaseCfg]) -> dict[str, Any]:
    """The settings in a file, by name; for `from_flat`, perhaps with others put over them.

    Args:
        path: of the file.
        kind: whose settings they are.

    Raises:
        ConfigError: if the file is missing or no TOML, has an unknown name, or a table where a value belongs.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (RecursionError, ValueError) as error:  # of UTF-8 or of TOML
        raise ConfigError(f"{path} is no TOML: {error}") from error
    known = {setting.name for setting in settings_of(kind)}
    for name, value in values.items():
        if isinstance(value, dict):
            raise ConfigError(f"{path} has a table [{name}]; settings stand in it one a line, without tables")
        if name not in known:
            raise ConfigError(f"{path}: {unknown(kind, name)}")
    return values


def write_settings(
    cfg: BaseCfg, *, derived: Mapping[str, Any] | None = None, leave_out: tuple[str, ...] = ()
) -> str:
    """The text of a file of all settings of a configuration.

    Args:
        cfg: the configuration.
        derived: settings that were not given, and what they came to: they become comments.
        leave_out: names that the file shall not have.
    """
    values, derived = to_flat(cfg), derived or {}
    lines = []
    for group, members in groupby(settings_of(type(cfg)), key=lambda setting: setting.group):
        lines.append(f"\n# {group}")
        for name in (member.name for member in members if member.name not in leave_out):
            if name in values:
                lines.append(f"{name} = {_literal(values[name])}")
            elif name in derived:
                lines.append(f"# {name} = {_literal(derived[name])}")
    return "\n".join(lines).lstrip() + "\n"


def _literal(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
