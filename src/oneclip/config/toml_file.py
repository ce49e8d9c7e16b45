"""Reading and writing of settings as a flat TOML file, one line for each setting."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from oneclip.config.base import BaseCfg
from oneclip.config.schema import settings_of, to_flat, unknown_setting_message
from oneclip.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_settings(path: str | Path, kind: type[BaseCfg]) -> dict[str, Any]:
    """Read the settings in a file, by name, for `from_flat`.

    Args:
        path: the TOML file.
        kind: configuration class that the settings belong to.

    Raises:
        ConfigError: if the file is missing or not TOML, or has an unknown name or a table.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (RecursionError, ValueError) as error:  # invalid UTF-8 or TOML
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    known = {setting.name for setting in settings_of(kind)}
    for name, value in values.items():
        if isinstance(value, dict):
            raise ConfigError(f"{path} has a table [{name}]; write settings one a line, without tables")
        if name not in known:
            raise ConfigError(f"{path}: {unknown_setting_message(kind, name)}")
    return values


def write_settings(
    cfg: BaseCfg, *, derived: Mapping[str, Any] | None = None, leave_out: tuple[str, ...] = ()
) -> str:
    """Write all settings of a configuration as the text of a TOML file.

    Args:
        cfg: the configuration to write.
        derived: computed values of settings that were not given; written as comments.
        leave_out: names of settings to skip.
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
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    # a JSON string is a TOML string, except that TOML requires DEL to be escaped
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
