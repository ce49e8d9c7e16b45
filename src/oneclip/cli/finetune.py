"""`oneclip finetune`: fine-tune a model, and measure what it gained and forgot."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr, hint_resume_on_interrupt
from oneclip.cli.settings_options import add_settings_options, build_config, merge_file_and_options
from oneclip.cli.train import exit_code, report_left_out
from oneclip.config.finetune import FinetuneCfg

if TYPE_CHECKING:
    from oneclip.train.finetune import AlphaPoint, FinetuneResult


def finetune(config: str | None = None, **values: Any) -> None:
    """Fine-tune a model, and measure what it gained and forgot.

    After the training, interpolations of the weights before and after it (WiSE-FT, Wortsman et al. 2022) are
    evaluated on held-out images of the new task and on a reference task, and the best one is written. --out gets
    model/, which other commands take as --model, wise_ft.json, wise_ft.png, report.html, and for LoRA adapter/ in the
    format of peft.

    \b
    Examples:
      oneclip finetune pocket pairs.csv -o tuned/
      oneclip finetune ViT-B/32 pairs.csv -o tuned/ --method lora --reference imagenet/val/
      oneclip classify cat.png -l cat -l dog --model tuned/model
    """
    cfg = configuration(config, values)
    from oneclip.train.finetune import finetune as run_finetune
    from oneclip.train.reporting.progress_bar import ProgressBar

    with hint_resume_on_interrupt(cfg.out):
        result = run_finetune(cfg, ProgressBar(), on_point=_echo_evaluated_point)
    _print_result(result)


def configuration(path: str | None, values: Mapping[str, Any]) -> FinetuneCfg:
    """Make the configuration from a settings file, if any, and options, which take precedence.

    Raises:
        typer.BadParameter: if a required setting is missing, or an option is invalid.
        ConfigError: if a setting of the file is invalid.
    """
    values = dict(values)
    model = values.pop("model_option", None)
    if model is not None:  # then all arguments are data
        data = [each for each in (values.get("model"), *(values.get("data") or ())) if each is not None]
        values |= {"model": model, "data": data}
    settings = merge_file_and_options(
        path, values, FinetuneCfg, replaces={"steps": ("epochs",), "epochs": ("steps",)}
    )
    for name in ("model", "data"):
        if name not in settings:
            raise typer.BadParameter(f"{name.upper()} is missing: oneclip finetune MODEL DATA -o FOLDER")
    if settings.get("last") is not None and "method" not in settings:
        settings["method"] = "last"
    options.check_model(str(settings["model"]))
    cfg = build_config(settings, FinetuneCfg, has_file=path is not None)
    if not cfg.reference and (answer := _ask_for_reference(str(cfg.model))):
        return build_config(settings | {"reference": answer}, FinetuneCfg)
    return cfg


add_settings_options(
    finetune, FinetuneCfg, arguments=("model", "data"), model_option=options.ModelAliasOption
)


def is_terminal() -> bool:
    """Return True if a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask_for_reference(model: str) -> str:
    """Ask on a terminal for the reference task; return "" if the model has one, or without a terminal."""
    from oneclip.train.finetune.reference_task import REFERENCE_CHOICES, has_bundled_reference

    if has_bundled_reference(model) or not is_terminal():
        return ""
    echo_stderr(f"give data of a task that {model} should not forget: {REFERENCE_CHOICES}")
    answer: str = typer.prompt("reference", err=True)
    return answer.strip()


def _echo_evaluated_point(point: AlphaPoint) -> None:
    echo_stderr(f"alpha {point.alpha:g} evaluated")


def _print_result(result: FinetuneResult) -> None:
    """Print the result of a fine-tuning, and exit with the matching code."""
    from oneclip.train.finetune import gained_and_forgotten
    from oneclip.train.finetune.report_section import describe_alpha

    run = result.run
    report_left_out(run, result.skipped, result.notes)
    if result.sweep is None:
        print("all checks passed; nothing was trained")
        return
    print(f"wrote {run.model} ({describe_alpha(result.sweep.chosen)})")
    if result.adapter is not None:
        print(f"wrote {result.adapter}")
    for line in gained_and_forgotten(result.sweep):
        print(line)
    raise typer.Exit(exit_code(result.skipped))
