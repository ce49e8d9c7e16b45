"""`oneclip train`: a file of settings, or the same as options, to a model. The options are made from the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, interruptible, say
from oneclip.cli.images import tell_not_read
from oneclip.cli.settings_options import configured, over_file, takes
from oneclip.config.run import RunCfg

if TYPE_CHECKING:
    from oneclip.train.run import RunResult

WAYS = ("--model ViT-B-32", "--pretrained pocket")


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
      oneclip classify cat.png -l cat -l dog --model run/model
    """
    cfg = configuration(file or config, values)
    from oneclip.train.reporting.progress_bar import ProgressBar
    from oneclip.train.run import run

    with interruptible(cfg.out):
        result = run(cfg, ProgressBar())
    _tell(result)


def configuration(path: str | None, values: Mapping[str, Any]) -> RunCfg:
    """A run from a file of settings, if there is one, and options that go before it.

    Raises:
        typer.BadParameter: if something that must be said is not, or an option does not fit.
        ConfigError: if a setting of the file does not fit.
    """
    told = over_file(path, values, RunCfg, instead={"steps": ("epochs",), "epochs": ("steps",)})
    if told.get("model") is None and told.get("pretrained") is None:
        raise typer.BadParameter(f"say what to train: {WAYS[0]}, or {WAYS[1]}, or both")
    model, pretrained = told.get("model"), told.get("pretrained")
    if pretrained is not None:
        options.find_model(pretrained if model is None else f"{model}:{pretrained}")
    elif not str(model).endswith(".json"):
        from oneclip import zoo

        zoo.architecture(str(model))
    return configured(told, RunCfg, has_file=path is not None)


FILE = typer.Argument(metavar="FILE.toml", help="Settings; options go before them.", show_default=False)
takes(train, RunCfg, file=Annotated[str | None, FILE])


def tell_left_out(result: RunResult, skipped: Mapping[str, str], notes: Sequence[str] = ()) -> None:
    """What was left out, and how to go on from an interrupted run; of several processes the first one tells."""
    outcome = result.outcome
    if not result.is_first:
        raise typer.Exit(ExitCode.INTERRUPTED if outcome.interrupted else ExitCode.OK)
    if result.rows_left_out:
        say(f"{result.rows_left_out} samples lack a picture or a caption and were left out", kind="note")
    tell_not_read(result.not_read)
    for name, reason in sorted(skipped.items()):
        say(f"{name} was left out: {reason}", kind="note")
    for note in notes:
        say(note, kind="note")
    if outcome.interrupted:
        say(
            f"interrupted after step {outcome.step} of {result.steps}; all of it is in {outcome.checkpoint}. "
            "Resume with the same command and --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED)


def exit_of(skipped: Mapping[str, str]) -> ExitCode:
    """How a command ends that trained. Under torchrun any code but 0 is a failure, which skipped images are not."""
    from oneclip.train.distributed.world import is_launched

    return ExitCode.SKIPPED if skipped and not is_launched() else ExitCode.OK


def _tell(result: RunResult) -> None:
    """The end of a run, for a person; exits with a code that says how it went."""
    tell_left_out(result, result.skipped)
    outcome = result.outcome
    for name, value in outcome.evaluation.items():
        print(f"held-out {name}: {value:.4g}")
    if result.model is not None:
        print(f"wrote {result.model}, and {result.model.parent / 'report.html'}")
    else:
        print("all checks held; nothing was trained")
    raise typer.Exit(exit_of(result.skipped))
