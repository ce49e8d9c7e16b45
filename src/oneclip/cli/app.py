"""The commands put together, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from oneclip._version import __version__
from oneclip.cli.caption import caption
from oneclip.cli.classify import classify
from oneclip.cli.convert import convert
from oneclip.cli.doctor import doctor
from oneclip.cli.embed import embed
from oneclip.cli.evaluate import evaluate
from oneclip.cli.exits import ExitCode, explain, say
from oneclip.cli.finetune import finetune
from oneclip.cli.inspect import inspect
from oneclip.cli.models import models
from oneclip.cli.pull import pull
from oneclip.cli.train import train
from oneclip.errors import ConfigError, OutputError


class _Commands(TyperGroup):
    """The group of all commands; errors and Ctrl-C are told here, before typer has its own way with them."""

    debug = False

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from None
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, (typer.Exit, typer.Abort)):
                raise
            raise typer.Exit(explain(error, debug=type(self).debug)) from None
        return result


class _Command(TyperCommand):
    """A command whose help has its options under the headings that `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            if isinstance(parameter, TyperArgument):  # without Python's name of its type, such as list[str]
                title, record = "Arguments", (parameter.metavar or str(parameter.name), record[1])
            groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=lambda title: title == "Options"):  # which has --help, comes last
            with formatter.section(title):
                formatter.write_dl(groups[title])


app = typer.Typer(
    name="oneclip",
    cls=_Commands,
    rich_markup_mode=None,  # plain help: quick to show, and examples keep their lines
    pretty_exceptions_enable=False,
    add_completion=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (classify, caption, embed, models, pull, inspect, convert, evaluate, finetune, train, doctor):
    app.command(cls=_Command)(command)


@app.callback()
def oneclip(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere in a command.")
    ] = False,
) -> None:
    """One library for contrastive image-text models: classify and embed images with any CLIP.

    \b
    Example:
      oneclip classify cat.png --label "a cat" --label "a dog"

    Each command has its own help: oneclip classify --help
    """
    if version:
        typer.echo(f"oneclip {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        _require_folder()


def _require_folder() -> None:
    """Raise ConfigError in a folder that has been deleted, where no relative path means anything."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError("the current folder no longer exists; change to one that does (cd)") from error


class _Closed(io.TextIOBase):
    """Stands for standard output where the shell has closed it (`>&-`): a result that is lost is an error."""

    def write(self, text: str) -> int:
        raise OutputError("standard output is closed, and the result cannot be written there")


class _Notes(logging.Handler):
    """Shows what the library notes as the commands' own notes."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), kind="note")


def run(argv: Sequence[str]) -> int:
    """Run one command line.

    Args:
        argv: the arguments, without the program's name.

    Returns:
        the exit code.
    """
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the end of the process
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end a run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("oneclip")
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())
    arguments = list(argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    _Commands.debug = "--debug" in arguments[:end]
    arguments = [a for i, a in enumerate(arguments) if a != "--debug" or i > end]
    try:
        return int(app(arguments, prog_name="oneclip", standalone_mode=False) or ExitCode.OK)
    except (KeyboardInterrupt, Exception) as error:
        return explain(
            KeyboardInterrupt() if isinstance(error, typer.Abort) else error, debug=_Commands.debug
        )
