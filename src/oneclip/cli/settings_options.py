"""Make a command's options from a dataclass of settings, and merge options with a settings file.

takes(command, RunCfg)                          # --batch-size, --lr, … for the function `command`
cfg = configured(over_file(path, given, RunCfg), RunCfg)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any, TypeVar

import typer

from oneclip.config.base import BaseCfg
from oneclip.config.schema import NOTHING, Setting, from_flat, settings_of
from oneclip.errors import ConfigError

Cfg = TypeVar("Cfg", bound=BaseCfg)
CONFIG = typer.Option("--config", metavar="FILE.toml", help="Settings from a file.", show_default=False)


def option(name: str) -> str:
    """The option of a setting."""
    return f"--{name.replace('_', '-')}"


def takes(
    command: Callable[..., None], kind: type[BaseCfg], *, arguments: Sequence[str] = (), **more: Any
) -> None:
    """Give a function the options of all settings of a configuration, and `--config`.

    The function is called with a keyword for each, None if it was not given, so that a file may say it.

    Args:
        command: a function of keywords; typer reads its options from what is written on it here.
        kind: the configuration.
        arguments: settings that have no option, but are given by their place, in this order.
        more: further parameters of the command, by name: their annotations, as typer has them.
    """
    known = {setting.name: setting for setting in settings_of(kind)}
    annotations = {name: _annotation(known.pop(name), by_place=True) for name in arguments}
    annotations |= more | {"config": Annotated[str | None, CONFIG]}
    annotations |= {name: _annotation(setting) for name, setting in known.items()}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = annotations


def over_file(
    path: str | None,
    values: Mapping[str, Any],
    kind: type[BaseCfg],
    *,
    instead: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Settings of a file, if there is one, with those that options gave in their place.

    Args:
        path: of the file.
        values: of options, None for what was not given.
        kind: the configuration.
        instead: for a setting that options give, those of the file that are then void.

    Raises:
        ConfigError: if the file cannot be used.
    """
    from oneclip.config.toml_file import read_settings

    given = {name: value for name, value in values.items() if value is not None and value not in ([], ())}
    told = read_settings(path, kind) if path is not None else {}
    void = {other for name in given for other in (instead or {}).get(name, ())}
    return {name: value for name, value in told.items() if name not in void} | given


def configured(told: Mapping[str, Any], kind: type[Cfg], *, has_file: bool = False) -> Cfg:
    """A configuration from settings.

    Args:
        told: by name.
        kind: of configuration.
        has_file: whether some are from a file.

    Raises:
        typer.BadParameter: if something that must be said is not, or an option does not fit.
        ConfigError: if what does not fit may be of the file.
    """
    for setting in settings_of(kind):
        if setting.default is MISSING and setting.name not in told:
            raise typer.BadParameter(f"{option(setting.name)} {setting.unit} is missing")
    try:
        return from_flat(kind, told)
    except ConfigError as error:
        if has_file:
            raise
        raise typer.BadParameter(str(error)) from error


def _annotation(setting: Setting, *, by_place: bool = False) -> Any:
    """The parameter of a setting, as typer wants it: what is not given is None."""
    name, is_switch = option(setting.name), setting.kind is bool
    is_several = setting.is_list or setting.together > 1
    described: dict[str, Any] = {
        "metavar": None if is_switch else setting.unit,
        "help": setting.explained,
        "show_default": False,
        "parser": _or_none(setting.kind) if setting.is_optional and not is_several else None,
    }
    if by_place:
        declared = typer.Argument(**described)
    else:
        names = f"{name}/--no-{name[2:]}" if is_switch and setting.default else name
        declared = typer.Option(names, *setting.short, rich_help_panel=setting.group, **described)
    kind: Any = list[str] if setting.is_list else setting.kind
    if setting.together > 1:
        kind = tuple[(setting.kind,) * setting.together]  # type: ignore[misc]
    return Annotated[kind | None, declared]


def _or_none(kind: type) -> Callable[[str], Any]:
    """What reads a value of a setting that may be none."""
    return lambda text: text if text == NOTHING else kind(text)
