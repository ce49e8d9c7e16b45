"""The commands put together, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from oneclip._version import __version__
from oneclip.cli.classify import classify
from oneclip.cli.convert import convert
from oneclip.cli.doctor import doctor
from oneclip.cli.embed import embed
from oneclip.cli.evaluate import evaluate
from oneclip.cli.exits import ExitCode, explain, say
from oneclip.cli.finetune import finetune
from oneclip.cli.from_settings import GroupedCommand
from oneclip.cli.inspect import inspect
from oneclip.cli.models import models
from oneclip.cli.pull import pull
from oneclip.cli.train import train


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


app = typer.Typer(
    name="oneclip",
    cls=_Commands,
    rich_markup_mode=None,  # plain help: quick to show, and examples keep their lines
    pretty_exceptions_enable=False,
    add_completion=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (classify, embed, models, pull, inspect, convert, evaluate, finetune, train, doctor):
    app.command(cls=GroupedCommand if command in (train, finetune) else None)(command)


@app.callback()
def oneclip(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere in a command.")
    ] = False,
) -> None:
    """One library for contrastive image-text models: classify and embed pictures with any CLIP.

    \b
    Example:
      oneclip classify cat.png --label "a cat" --label "a dog"

    Each command has its own help: oneclip classify --help
    """
    if version:
        typer.echo(f"oneclip {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


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
