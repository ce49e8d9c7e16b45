"""Flat list of the settings of a configuration, shared by settings files and command-line options.

A configuration such as `RunCfg` has its own fields and a mapping `train` with fields of `TrainCfg`. In a file or a
command all of them are settings by name. If both have a name, it means the configuration's own field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from oneclip.config.base import BaseCfg
from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError, nearest_names

TRAIN_FIELD = "train"  # the field that holds the settings of `TrainCfg`
DERIVED = ("steps_per_epoch",)  # fields of TrainCfg that follow from the data and cannot be set
NONE_WORD = "none"  # how files and options write None
DEFAULT_GROUP = "Training"  # of settings without a group

Cfg = TypeVar("Cfg", bound=BaseCfg)


class Setting(NamedTuple):
    """One setting, for files and options.

    Attributes:
        name: as in files; options have `-` for `_`.
        kind: bool, int, float or str.
        default: `dataclasses.MISSING` if the setting is required.
        help: one sentence.
        group: heading in help and files.
        unit: placeholder of the value in help.
        aliases: other names of the option.
        is_optional: if None is allowed.
        is_list: if it takes any number of values.
        value_count: how many values the option takes, such as 2 for a range.
    """

    name: str
    kind: type
    default: Any
    help: str
    group: str
    unit: str
    aliases: tuple[str, ...]
    is_optional: bool
    is_list: bool
    value_count: int = 1

    @property
    def full_help(self) -> str:
        """Return the help with the default appended, unless the help already gives it."""
        if self.default in (MISSING, None) or self.kind is bool or "[default" in self.help:
            return self.help
        return f"{self.help} [default: {self.default}]"


def settings_of(kind: type[BaseCfg]) -> list[Setting]:
    """Return all settings of a configuration, ordered by group."""
    own = _settings(kind)
    names = {setting.name for setting in own}
    trainer = [setting for setting in _settings(TrainCfg) if setting.name not in names]
    groups = list(dict.fromkeys(setting.group for setting in own + trainer))
    return sorted(own + trainer, key=lambda setting: groups.index(setting.group))


def from_flat(kind: type[Cfg], values: Mapping[str, Any]) -> Cfg:
    """Build a configuration from settings by name; "none" means None.

    Raises:
        ConfigError: on an unknown name, a missing required setting, or an invalid value.
    """
    known = {setting.name: setting for setting in settings_of(kind)}
    for name in values:
        if name not in known:
            raise ConfigError(unknown_setting_message(kind, name))
    plain = {
        name: None if known[name].is_optional and value == NONE_WORD else value
        for name, value in values.items()
    }
    own = {f.name for f in _fields(kind)}
    train = {name: value for name, value in plain.items() if name not in own}
    return kind.from_dict(
        {name: value for name, value in plain.items() if name in own} | {TRAIN_FIELD: train}
    )


def to_flat(cfg: BaseCfg) -> dict[str, Any]:
    """Return all settings of a configuration that have a value; the inverse of `from_flat`."""
    given = getattr(cfg, TRAIN_FIELD)
    train = TrainCfg.from_dict({"steps": 1, **given})
    own = {f.name for f in _fields(type(cfg))}
    names = [setting.name for setting in settings_of(type(cfg))]
    values = {name: getattr(cfg if name in own else train, name) for name in names}
    return {
        name: NONE_WORD if value is None else value
        for name, value in values.items()
        if value is not None or name in given
    }


def unknown_setting_message(kind: type[BaseCfg], name: str) -> str:
    """Return the error message for a name that is not a setting."""
    near = nearest_names(name, [setting.name for setting in settings_of(kind)])
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all settings"
    return f"unknown setting {name!r}; {hint}"


def _fields(kind: Any) -> tuple[Any, ...]:
    return fields(kind)


def _settings(kind: type[Any]) -> list[Setting]:
    """Return the settings of one class. Evaluating its types takes a while, so it is done once for all of them."""
    hints = get_type_hints(kind)
    return [_setting(f, hints[f.name]) for f in _fields(kind) if f.name not in (TRAIN_FIELD, *DERIVED)]


def _setting(f: Any, hint: Any) -> Setting:
    parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    tuples = [get_args(part) for part in parts if get_origin(part) is tuple]
    several = next((inner for inner in tuples if ... not in inner), ())  # tuples of a fixed length
    plain: type = next(part for part in (*several, *parts) if part in (bool, int, float, str))
    return Setting(
        name=f.name,
        kind=plain,
        default=f.default,
        help=f.metadata["help"],
        group=f.metadata.get("group", DEFAULT_GROUP),
        unit=f.metadata.get("unit") or {int: "N", float: "X", str: "NAME"}.get(plain, ""),
        aliases=f.metadata.get("aliases", ()),
        is_optional=type(None) in parts,
        is_list=any(... in inner for inner in tuples),
        value_count=max(1, len(several)),
    )
