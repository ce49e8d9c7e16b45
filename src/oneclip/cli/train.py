"""`oneclip train`: a file of settings, or the same as options, to a model. The options are made from the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from oneclip.cli.exits import ExitCode, say
from oneclip.errors import ConfigError
from oneclip.train.settings import NOTHING, Setting, settings

if TYPE_CHECKING:
    from oneclip.train.run import RunResult
    from oneclip.train.settings import RunCfg

WAYS = ("--model ViT-B-32", "--pretrained pocket")


class GroupedCommand(TyperCommand):
    """A command whose help has its options under headings: those of `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = getattr(parameter, "rich_help_panel", None) or "Arguments and help"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def train(file: str | None = None, config: str | None = None, **values: Any) -> None:
    """Train a model on pictures and captions.

    Settings come from a TOML file, from options, or both; options go before. In --out it leaves the settings
    (config.toml, to be run again), metrics, plots, report.html, checkpoints, and in the end model/, which other
    commands take as --model. Ctrl-C keeps what was done, and the same command with --resume auto goes on from
    there, with the losses of an unbroken run.

    \b
    Examples:
      oneclip train --data pairs.csv --images pictures/ --model ViT-B-32 --out run/ --precision bf16
      oneclip train --data pairs.csv --pretrained pocket --lr 1e-4 --eval-data held_out.csv --out run/
      oneclip train run/config.toml --out again/
      oneclip classify cat.jpg -l cat -l dog --model run/model
    """
    cfg = configuration(file or config, {name: given for name, given in values.items() if _is_given(given)})
    from oneclip.train.progress import ProgressBar
    from oneclip.train.run import run

    try:
        result = run(cfg, ProgressBar())
    except KeyboardInterrupt:  # the second one, or one before there was anything to save
        say(
            f"interrupted at once; the last checkpoint in {cfg.out}, if there is one, is whole. "
            "Go on with the same command and --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _tell(result)


def configuration(path: str | None, values: dict[str, Any]) -> RunCfg:
    """A run from a file of settings, if there is one, and options that go before it.

    Raises:
        typer.BadParameter: if something that must be said is not, or an option does not fit.
        ConfigError: if a setting of the file does not fit.
    """
    from oneclip.train.settings import RunCfg
    from oneclip.train.toml import read_settings

    told = read_settings(path) if path is not None else {}
    if "steps" in values or "epochs" in values:  # one of them replaces whichever the file has
        told = {name: value for name, value in told.items() if name not in ("steps", "epochs")}
    told |= values
    for setting in settings():
        if setting.default is MISSING and setting.name not in told:
            raise typer.BadParameter(f"{option(setting.name)} {setting.unit} is missing")
    if told.get("model") is None and told.get("pretrained") is None:
        raise typer.BadParameter(f"say what to train: {WAYS[0]}, or {WAYS[1]}, or both")
    try:
        return RunCfg.from_flat(told)
    except ConfigError as error:
        if path is None:
            raise typer.BadParameter(str(error)) from error
        raise


def option(name: str) -> str:
    """The option of a setting."""
    return f"--{name.replace('_', '-')}"


def _is_given(value: Any) -> bool:
    return value is not None and value != []


def _parameter(setting: Setting) -> inspect.Parameter:
    """The option of a setting, as typer wants it: what is not given is None, so that a file can say it."""
    name = option(setting.name)
    is_switch = setting.kind is bool
    names = f"{name}/--no-{name[2:]}" if is_switch and setting.default else name
    declared = typer.Option(
        names,
        *setting.short,
        metavar=None if is_switch else setting.unit,
        help=setting.explained,
        rich_help_panel=setting.group,
        show_default=False,
        parser=_or_none(setting.kind) if setting.is_optional and not setting.is_list else None,
    )
    kind: Any = list[str] if setting.is_list else setting.kind
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )


def _or_none(kind: type) -> Callable[[str], Any]:
    """What reads a value of a setting that may be none."""
    return lambda text: text if text == NOTHING else kind(text)


def _signature() -> inspect.Signature:
    """What typer reads the command's arguments and options from."""
    file = typer.Argument(metavar="FILE.toml", help="Settings; options go before them.", show_default=False)
    config = typer.Option("--config", metavar="FILE.toml", help="The same.", show_default=False)
    parameters = [
        inspect.Parameter(
            "file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, file]
        ),
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, config]
        ),
        *map(_parameter, settings()),
    ]
    return inspect.Signature(parameters)


train.__signature__ = _signature()  # type: ignore[attr-defined]
train.__annotations__ = {
    name: parameter.annotation
    for name, parameter in train.__signature__.parameters.items()  # type: ignore[attr-defined]
}


def _tell(result: RunResult) -> None:
    """The end of a run, for a person; exits with a code that says how it went."""
    if result.rows_left_out:
        say(
            f"{result.rows_left_out} rows of the table lack a picture or a caption and were left out",
            kind="note",
        )
    for name, reason in sorted(result.skipped.items()):
        say(f"{name} was left out: {reason}", kind="note")
    outcome = result.outcome
    if outcome.interrupted:
        say(
            f"interrupted after step {outcome.step} of {result.steps}; all of it is in {outcome.checkpoint}. "
            "Go on with the same command and --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED)
    for name, value in outcome.evaluation.items():
        print(f"held-out {name}: {value:.4g}")
    if result.model is not None:
        print(f"wrote {result.model}, and {result.model.parent / 'report.html'}")
    else:
        print("all checks held; nothing was trained")
    if result.skipped:
        raise typer.Exit(ExitCode.SKIPPED)
