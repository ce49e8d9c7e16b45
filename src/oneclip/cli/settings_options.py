"""Make a command's options from a dataclass of settings, and merge options with a settings file.

add_settings_options(command, RunCfg)  # adds --batch-size, --lr, … to the function `command`
cfg = build_config(merge_file_and_options(path, options, RunCfg), RunCfg)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any, TypeVar

import typer

from oneclip.config.base import BaseCfg
from oneclip.config.schema import NONE_WORD, Setting, from_flat, settings_of
from oneclip.errors import ConfigError

Cfg = TypeVar("Cfg", bound=BaseCfg)
CONFIG_OPTION = typer.Option(
    "--config", metavar="FILE.toml", help="Settings from a file.", show_default=False
)


def option_name(name: str) -> str:
    """Return the name of a setting's option, such as --batch-size."""
    return f"--{name.replace('_', '-')}"


def add_settings_options(
    command: Callable[..., None], kind: type[BaseCfg], *, arguments: Sequence[str] = (), **more: Any
) -> None:
    """Give a command an option for each setting of a configuration, and `--config`.

    The command is called with a keyword for each setting: None if the option was not given, so that a settings file
    can give the value.

    Args:
        command: a function of keywords. This sets its signature, from which typer makes the options.
        kind: the configuration.
        arguments: settings that are positional arguments instead of options, in this order.
        more: further parameters of the command: name to annotation, in the form that typer reads.
    """
    settings = {setting.name: setting for setting in settings_of(kind)}
    annotations = {name: _annotation(settings.pop(name), is_argument=True) for name in arguments}
    annotations |= more | {"config": Annotated[str | None, CONFIG_OPTION]}
    annotations |= {name: _annotation(setting) for name, setting in settings.items()}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = annotations


def merge_file_and_options(
    path: str | None,
    options: Mapping[str, Any],
    kind: type[BaseCfg],
    *,
    replaces: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Merge the settings of a file with those of options; options take precedence.

    Args:
        path: of the settings file, or None.
        options: settings by name; None for an option that was not given.
        kind: the configuration.
        replaces: for a setting, the settings of the file that are ignored if the option is given.

    Raises:
        ConfigError: if the file cannot be read or has an unknown setting.
    """
    from oneclip.config.toml_file import read_settings

    given = {name: value for name, value in options.items() if value is not None and value not in ([], ())}
    in_file = read_settings(path, kind) if path is not None else {}
    ignored = {other for name in given for other in (replaces or {}).get(name, ())}
    return {name: value for name, value in in_file.items() if name not in ignored} | given


def build_config(settings: Mapping[str, Any], kind: type[Cfg], *, has_file: bool = False) -> Cfg:
    """Build a configuration from settings.

    Args:
        settings: values by name.
        kind: the configuration.
        has_file: if some of the settings came from a file.

    Raises:
        typer.BadParameter: if a required setting is missing, or an option is invalid.
        ConfigError: if a setting is invalid and may come from the file.
    """
    for setting in settings_of(kind):
        if setting.default is MISSING and setting.name not in settings:
            raise typer.BadParameter(f"{option_name(setting.name)} {setting.unit} is missing")
    try:
        return from_flat(kind, settings)
    except ConfigError as error:
        if has_file:
            raise
        raise typer.BadParameter(str(error)) from error


def _annotation(setting: Setting, *, is_argument: bool = False) -> Any:
    """Return a setting's parameter in the form that typer reads; the default is always None."""
    name, is_switch = option_name(setting.name), setting.kind is bool
    has_values = setting.is_list or setting.value_count > 1
    info: dict[str, Any] = {
        "metavar": None if is_switch else setting.unit,
        "help": setting.full_help,
        "show_default": False,
        "parser": None if has_values else _parser(setting),
    }
    if is_argument:
        declared = typer.Argument(**info)
    else:
        names = f"{name}/--no-{name[2:]}" if is_switch and setting.default else name
        declared = typer.Option(names, *setting.aliases, rich_help_panel=setting.group, **info)
    kind: Any = list[str] if setting.is_list else setting.kind
    if setting.value_count > 1:
        kind = tuple[(setting.kind,) * setting.value_count]  # type: ignore[misc]
    return Annotated[kind | None, declared]


def _parser(setting: Setting) -> Callable[[str], Any] | None:
    """Return a parser of numbers, and of "none" for an optional setting; None if typer's own will do."""
    if setting.kind not in (int, float) and not setting.is_optional:
        return None

    def parse(text: str) -> Any:
        if setting.is_optional and text == NONE_WORD:
            return text
        try:
            return setting.kind(text)
        except ValueError:
            expected = "a whole number" if setting.kind is int else "a number"
            raise typer.BadParameter(f"{text!r} is not {expected}") from None

    return parse
