"""The command line app: registers the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from oneclip._version import __version__
from oneclip.cli.caption import caption
from oneclip.cli.classify import classify
from oneclip.cli.convert import convert
from oneclip.cli.doctor import doctor
from oneclip.cli.duplicates import duplicates
from oneclip.cli.embed import embed
from oneclip.cli.evaluate import evaluate
from oneclip.cli.exits import ExitCode, echo_stderr, report_error
from oneclip.cli.explain import explain
from oneclip.cli.export import export
from oneclip.cli.finetune import finetune
from oneclip.cli.index import index
from oneclip.cli.inspect import inspect
from oneclip.cli.models import models
from oneclip.cli.probe import probe
from oneclip.cli.pull import pull
from oneclip.cli.search import search
from oneclip.cli.serve import ENVIRONMENT_PREFIX, serve
from oneclip.cli.sort import sort
from oneclip.cli.train import train
from oneclip.errors import ConfigError, OutputError


class _CommandGroup(TyperGroup):
    """Group of all commands; reports errors and Ctrl-C before typer handles them."""

    debug = False

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from None
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, (typer.Exit, typer.Abort)):
                raise
            raise typer.Exit(report_error(error, debug=type(self).debug)) from None
        return result


class _Command(TyperCommand):
    """Command whose help groups its options under the headings of `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options, each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            if isinstance(parameter, TyperArgument):  # without the Python type, such as list[str]
                title, record = "Arguments", (parameter.metavar or str(parameter.name), record[1])
            groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=lambda title: title == "Options"):  # with --help: last
            with formatter.section(title):
                formatter.write_dl(groups[title])


app = typer.Typer(
    name="oneclip",
    cls=_CommandGroup,
    rich_markup_mode=None,  # plain help is faster, and keeps the line breaks of examples
    pretty_exceptions_enable=False,
    add_completion=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    classify,
    explain,
    caption,
    embed,
    search,
    index,
    duplicates,
    sort,
    models,
    pull,
    inspect,
    convert,
    export,
    evaluate,
    probe,
    finetune,
    train,
    doctor,
):
    app.command(cls=_Command)(command)
app.command(cls=_Command, context_settings={"auto_envvar_prefix": ENVIRONMENT_PREFIX})(serve)


@app.callback()
def oneclip(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Allowed anywhere in a command.")
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
    """Raise ConfigError if the current folder was deleted: no relative path would work."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError("the current folder no longer exists; change to one that does (cd)") from error


class _ClosedStdout(io.TextIOBase):
    """Replacement for a closed standard output (`>&-`), so that a lost result is an error."""

    def write(self, text: str) -> int:
        raise OutputError("standard output is closed, so the result cannot be written")


class _NoteHandler(logging.Handler):
    """Log handler that shows messages of the library as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        echo_stderr(record.getMessage(), kind="note")


def run(argv: Sequence[str]) -> int:
    """Run one command line.

    Args:
        argv: the arguments, without the program name.

    Returns:
        The exit code.
    """
    if sys.stdout is None:
        sys.stdout = _ClosedStdout()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open until the process ends
    for stream in (sys.stdout, sys.stderr):  # a file name that the terminal cannot show must not be an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("oneclip")
    if not any(isinstance(handler, _NoteHandler) for handler in logger.handlers):
        logger.addHandler(_NoteHandler())
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # they do not name the file
    arguments = list(argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    _CommandGroup.debug = "--debug" in arguments[:end]
    arguments = [a for i, a in enumerate(arguments) if a != "--debug" or i > end]
    try:
        return int(app(arguments, prog_name="oneclip", standalone_mode=False) or ExitCode.OK)
    except (KeyboardInterrupt, Exception) as error:
        return report_error(
            KeyboardInterrupt() if isinstance(error, typer.Abort) else error, debug=_CommandGroup.debug
        )
