"""A dataclass of settings, and those of the trainer, as one flat table that files and command lines share.

A configuration such as `RunCfg` has fields of its own and a mapping `train` of `TrainCfg`'s. To whoever writes a
file or a command, all of them are settings by name; a name that both have is the configuration's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from oneclip.config.base import BaseCfg
from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError, nearest

REST = "train"  # the field that holds what is `TrainCfg`'s
DERIVED = ("steps_per_epoch",)  # of TrainCfg: what the data says, so nothing to set
NOTHING = "none"  # how files and command lines write None
GROUP = "Training"  # of settings that name no other

Cfg = TypeVar("Cfg", bound=BaseCfg)


class Setting(NamedTuple):
    """One setting.

    Attributes:
        name: as files have it; options of the command line have `-` for `_`.
        kind: bool, int, float or str.
        default: `dataclasses.MISSING` if it must be given.
        help: a sentence.
        group: what it belongs to.
        unit: what its value is called in help.
        short: other names of its option.
        is_optional: whether None is a value.
        is_list: whether there may be several.
        together: values that are given together, such as the least and the most.
    """

    name: str
    kind: type
    default: Any
    help: str
    group: str
    unit: str
    short: tuple[str, ...]
    is_optional: bool
    is_list: bool
    together: int = 1

    @property
    def explained(self) -> str:
        """The help, with the default where it does not say it itself."""
        says_nothing = self.default in (MISSING, None) or self.kind is bool
        return (
            self.help if says_nothing or "[default" in self.help else f"{self.help} [default: {self.default}]"
        )


def settings_of(kind: type[BaseCfg]) -> list[Setting]:
    """All settings of a configuration, the groups in the order in which they first come."""
    own = [_setting(kind, f) for f in _fields(kind) if f.name != REST]
    names = {*DERIVED, *(setting.name for setting in own)}
    theirs = [_setting(TrainCfg, f) for f in _fields(TrainCfg) if f.name not in names]
    groups = list(dict.fromkeys(setting.group for setting in own + theirs))
    return sorted(own + theirs, key=lambda setting: groups.index(setting.group))


def from_flat(kind: type[Cfg], values: Mapping[str, Any]) -> Cfg:
    """A configuration from one table of settings; "none" stands for None.

    Raises:
        ConfigError: on an unknown name, one that is needed and missing, or a value that does not fit.
    """
    known = {setting.name: setting for setting in settings_of(kind)}
    for name in values:
        if name not in known:
            raise ConfigError(unknown(kind, name))
    plain = {
        name: None if known[name].is_optional and value == NOTHING else value
        for name, value in values.items()
    }
    own = {f.name for f in _fields(kind)}
    train = {name: value for name, value in plain.items() if name not in own}
    return kind.from_dict({name: value for name, value in plain.items() if name in own} | {REST: train})


def to_flat(cfg: BaseCfg) -> dict[str, Any]:
    """All settings of a configuration that have a value; `from_flat` makes the same of them."""
    given = getattr(cfg, REST)
    train = TrainCfg.from_dict({"steps": 1, **given})
    own = {f.name for f in _fields(type(cfg))}
    names = [setting.name for setting in settings_of(type(cfg))]
    values = {name: getattr(cfg if name in own else train, name) for name in names}
    return {
        name: NOTHING if value is None else value
        for name, value in values.items()
        if value is not None or name in given
    }


def unknown(kind: type[BaseCfg], name: str) -> str:
    """What to say of a name that is no setting."""
    near = nearest(name, [setting.name for setting in settings_of(kind)])
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists them"
    return f"there is no setting {name!r}; {hint}"


def _fields(kind: Any) -> tuple[Any, ...]:
    return fields(kind)


def _setting(kind: Any, f: Any) -> Setting:
    hint = get_type_hints(kind)[f.name]
    parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    tuples = [get_args(part) for part in parts if get_origin(part) is tuple]
    several = next((inner for inner in tuples if ... not in inner), ())  # a fixed number of values
    plain: type = next(part for part in (*several, *parts) if part in (bool, int, float, str))
    return Setting(
        name=f.name,
        kind=plain,
        default=f.default,
        help=f.metadata["help"],
        group=f.metadata.get("group", GROUP),
        unit=f.metadata.get("unit") or {int: "N", float: "X", str: "NAME"}.get(plain, ""),
        short=f.metadata.get("short", ()),
        is_optional=type(None) in parts,
        is_list=any(... in inner for inner in tuples),
        together=max(1, len(several)),
    )
