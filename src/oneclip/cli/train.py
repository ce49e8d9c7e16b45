"""`oneclip train`: train a model with settings from a file, from options, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, echo_stderr, hint_resume_on_interrupt
from oneclip.cli.images import echo_not_read
from oneclip.cli.settings_options import add_settings_options, build_config, merge_file_and_options
from oneclip.config.run import RunCfg

if TYPE_CHECKING:
    from oneclip.train.run import RunResult

MODEL_EXAMPLES = ("--model ViT-B-32", "--pretrained pocket")


def train(file: str | None = None, config: str | None = None, **values: Any) -> None:
    """Train a model on images and captions.

    Settings come from a TOML file, from options, or both; options take precedence. --out gets the settings
    (config.toml, which repeats the run), metrics, plots, report.html, checkpoints, and at the end model/, which other
    commands take as --model. After Ctrl-C, the same command with --resume auto continues with the losses of an
    uninterrupted run.

    \b
    Examples:
      oneclip train --data pairs.csv --images images/ --model ViT-B-32 --out run/ --precision bf16
      oneclip train --data pairs.csv --pretrained pocket --lr 1e-4 --eval-data held_out.csv --out run/
      oneclip train run/config.toml --out again/
      oneclip classify cat.png -l cat -l dog --model run/model
    """
    cfg = configuration(file or config, values)
    from oneclip.train.reporting.progress_bar import ProgressBar
    from oneclip.train.run import run

    with hint_resume_on_interrupt(cfg.out):
        result = run(cfg, ProgressBar())
    _print_result(result)


def configuration(path: str | None, values: Mapping[str, Any]) -> RunCfg:
    """Make the configuration of a run from a settings file, if any, and options, which take precedence.

    Raises:
        typer.BadParameter: if a required setting is missing, or an option is invalid.
        ConfigError: if a setting of the file is invalid.
    """
    settings = merge_file_and_options(
        path, values, RunCfg, replaces={"steps": ("epochs",), "epochs": ("steps",)}
    )
    if settings.get("model") is None and settings.get("pretrained") is None:
        raise typer.BadParameter(f"no model given: use {MODEL_EXAMPLES[0]}, {MODEL_EXAMPLES[1]}, or both")
    model, pretrained = settings.get("model"), settings.get("pretrained")
    if pretrained is not None:
        options.check_model(pretrained if model is None else f"{model}:{pretrained}")
    elif not str(model).endswith(".json"):
        from oneclip import zoo

        zoo.architecture(str(model))
    return build_config(settings, RunCfg, has_file=path is not None)


FILE_ARGUMENT = typer.Argument(
    metavar="FILE.toml", help="Settings; options take precedence.", show_default=False
)
add_settings_options(train, RunCfg, file=Annotated[str | None, FILE_ARGUMENT])


def report_left_out(result: RunResult, skipped: Mapping[str, str], notes: Sequence[str] = ()) -> None:
    """Report skipped data, and how to resume an interrupted run. Only the first of several processes prints."""
    outcome = result.outcome
    if not result.is_rank_zero:
        raise typer.Exit(ExitCode.INTERRUPTED if outcome.interrupted else ExitCode.OK)
    if result.rows_left_out:
        echo_stderr(f"{result.rows_left_out} samples without an image or a caption were skipped", kind="note")
    echo_not_read(result.not_read)
    for name, reason in sorted(skipped.items()):
        echo_stderr(f"{name} was skipped: {reason}", kind="note")
    for note in notes:
        echo_stderr(note, kind="note")
    if outcome.interrupted:
        echo_stderr(
            f"interrupted after step {outcome.step} of {result.steps}; saved in {outcome.checkpoint}. "
            "To resume, run the same command with --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED)


def exit_code(skipped: Mapping[str, str]) -> ExitCode:
    """Return the exit code of a training: under torchrun 0, because it treats any other code as a failure."""
    from oneclip.train.distributed.world import is_torchrun

    return ExitCode.SKIPPED if skipped and not is_torchrun() else ExitCode.OK


def _print_result(result: RunResult) -> None:
    """Print the result of a run, and exit with the matching code."""
    report_left_out(result, result.skipped)
    outcome = result.outcome
    for name, value in outcome.evaluation.items():
        print(f"held-out {name}: {value:.4g}")
    if result.model is not None:
        print(f"wrote {result.model}, and {result.model.parent / 'report.html'}")
    else:
        print("all checks passed; nothing was trained")
    raise typer.Exit(exit_code(result.skipped))
