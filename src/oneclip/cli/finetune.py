"""`oneclip finetune`: a model and a table to the model fine-tuned on it, and what it gained and forgot."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import interruptible, say
from oneclip.cli.settings_options import configured, over_file, takes
from oneclip.cli.train import exit_of, tell_left_out
from oneclip.config.finetune import FinetuneCfg

if TYPE_CHECKING:
    from oneclip.train.finetune import FinetuneResult, Point


def finetune(config: str | None = None, **values: Any) -> None:
    """Fine-tune a model, and say what it gained and what it forgot.

    After the training, the models between before and after (WiSE-FT, Wortsman et al. 2022) are evaluated on held-out
    pictures of the new task and on a task from before; the best compromise is written. In --out it leaves model/, which
    other commands take as --model, wise_ft.json, wise_ft.png, report.html, and for LoRA adapter/ in peft's form.

    \b
    Examples:
      oneclip finetune pocket pairs.csv -o tuned/
      oneclip finetune ViT-B/32 pairs.csv -o tuned/ --way lora --before imagenet/val/
      oneclip classify cat.png -l cat -l dog --model tuned/model
    """
    cfg = configuration(config, values)
    from oneclip.train.finetune import finetune as run_finetune
    from oneclip.train.reporting.progress_bar import ProgressBar

    with interruptible(cfg.out):
        result = run_finetune(cfg, ProgressBar(), advance=_tell_point)
    _tell(result)


def configuration(path: str | None, values: Mapping[str, Any]) -> FinetuneCfg:
    """A fine-tuning from a file of settings, if there is one, and options that go before it.

    Raises:
        typer.BadParameter: if something that must be said is not, or an option does not fit.
        ConfigError: if a setting of the file does not fit.
    """
    values = dict(values)
    model = values.pop("model_option", None)
    if model is not None:  # then all that stands without an option is data
        data = [each for each in (values.get("model"), *(values.get("data") or ())) if each is not None]
        values |= {"model": model, "data": data}
    told = over_file(path, values, FinetuneCfg, instead={"steps": ("epochs",), "epochs": ("steps",)})
    for name in ("model", "data"):
        if name not in told:
            raise typer.BadParameter(f"{name.upper()} is missing: oneclip finetune MODEL DATA -o FOLDER")
    if told.get("last") is not None and "way" not in told:
        told["way"] = "last"
    options.find_model(str(told["model"]))
    cfg = configured(told, FinetuneCfg, has_file=path is not None)
    if not cfg.before and (answer := _ask(str(cfg.model))):
        return configured(told | {"before": answer}, FinetuneCfg)
    return cfg


takes(finetune, FinetuneCfg, arguments=("model", "data"), model_option=options.ModelToo)


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(model: str) -> str:
    """What to compare with, from a person; nothing where it is known, or nobody is there to be asked."""
    from oneclip.train.finetune.reference_task import CHOICES, has_a_sample

    if has_a_sample(model) or not is_terminal():
        return ""
    say(f"what {model} could do before must be measured somewhere, to see what it forgets: {CHOICES}")
    answer: str = typer.prompt("before", err=True)
    return answer.strip()


def _tell_point(point: Point) -> None:
    say(f"alpha {point.alpha:g} evaluated")


def _tell(result: FinetuneResult) -> None:
    """The end of a fine-tuning, for a person; exits with a code that says how it went."""
    from oneclip.train.finetune import gained_and_forgotten
    from oneclip.train.finetune.report_section import alpha_in_words

    run = result.run
    tell_left_out(run, result.skipped, result.notes)
    if result.path is None:
        print("all checks held; nothing was trained")
        return
    print(f"wrote {run.model} ({alpha_in_words(result.path.chosen)})")
    if result.adapter is not None:
        print(f"wrote {result.adapter}")
    for line in gained_and_forgotten(result.path):
        print(line)
    raise typer.Exit(exit_of(result.skipped))
