"""`oneclip finetune`: a model and a table to the model fine-tuned on it, and what it gained and forgot."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, say

if TYPE_CHECKING:
    from oneclip.train.finetune import FinetuneResult, Point

TASK, WAY, TRAINING = (
    "What it learns from, and is measured on",
    "What is trained, and what is written",
    "Training",
)


class WayOption(str, Enum):
    """What is trained."""

    full = "full"
    lora = "lora"
    lit = "lit"
    last = "last"


def _option(*names: str, group: str, **described: Any) -> Any:
    return typer.Option(*names, rich_help_panel=group, show_default=False, **described)


def finetune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name that `oneclip models` lists, a file or a folder.")
    ],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="CSV or Parquet file with a picture and a caption a row."),
    ],
    out: Annotated[
        str, _option("--out", "-o", group=WAY, metavar="FOLDER", help="Where all that comes of it goes.")
    ],
    way: Annotated[
        WayOption | None,
        _option(
            "--way",
            group=WAY,
            help="All of it, LoRA's adapters, the text tower (lit), or the last groups. [default: full]",
        ),
    ] = None,
    last: Annotated[
        int | None,
        _option("--last", group=WAY, metavar="N", help="Train the last N groups of each tower (--way last)."),
    ] = None,
    rank: Annotated[int, _option("--rank", group=WAY, metavar="N", help="Of LoRA. [default: 8]")] = 8,
    lora_alpha: Annotated[
        float | None,
        _option("--lora-alpha", group=WAY, metavar="X", help="Of LoRA. [default: twice the rank]"),
    ] = None,
    alpha: Annotated[
        str,
        _option(
            "--alpha",
            group=WAY,
            metavar="best|after|X",
            help="The point between before (0) and after (1) that is written. [default: best]",
        ),
    ] = "best",
    points: Annotated[
        int, _option("--points", group=WAY, metavar="N", help="Points that are evaluated. [default: 11]")
    ] = 11,
    before: Annotated[
        str | None,
        _option(
            "--before",
            group=TASK,
            metavar="TABLE|FOLDER|none",
            help="What it could do before: pictures and captions, or a folder of classes. [default: for pocket, its "
            "held-out sample]",
        ),
    ] = None,
    before_images: Annotated[
        str | None,
        _option("--before-images", group=TASK, metavar="FOLDER", help="For the table of --before."),
    ] = None,
    eval_data: Annotated[
        str | None,
        _option(
            "--eval-data",
            group=TASK,
            metavar="TABLE|FOLDER",
            help="Held-out pictures of the new task, or a folder of classes. [default: a part of DATA]",
        ),
    ] = None,
    eval_images: Annotated[
        str | None,
        _option("--eval-images", group=TASK, metavar="FOLDER", help="For --eval-data. [default: --images]"),
    ] = None,
    split: Annotated[
        float,
        _option("--split", group=TASK, metavar="X", help="Share of DATA's pictures held out. [default: 0.1]"),
    ] = 0.1,
    images: Annotated[
        str | None,
        _option(
            "--images",
            group=TASK,
            metavar="FOLDER",
            help="What paths are relative to. [default: the table's folder]",
        ),
    ] = None,
    image_column: Annotated[
        str,
        _option("--image-column", group=TASK, metavar="NAME", help="Of picture paths. [default: filepath]"),
    ] = "filepath",
    caption_column: Annotated[
        str, _option("--caption-column", group=TASK, metavar="NAME", help="Of captions. [default: caption]")
    ] = "caption",
    separator: Annotated[
        str | None,
        _option("--separator", group=TASK, metavar="CHAR", help="Between CSV columns. [default: found out]"),
    ] = None,
    skip: Annotated[
        bool, _option("--skip", group=TASK, help="Leave out pictures that are missing; otherwise an error.")
    ] = False,
    max_pixels: options.MaxPixels = None,
    epochs: Annotated[
        int | None,
        _option("--epochs", group=TRAINING, metavar="N", help="Times through DATA. [default: 10]"),
    ] = None,
    steps: Annotated[
        int | None, _option("--steps", group=TRAINING, metavar="N", help="Instead of --epochs.")
    ] = None,
    batch_size: Annotated[
        int | None,
        _option("--batch-size", group=TRAINING, metavar="N", help="Pairs. [default: 64, or all of DATA]"),
    ] = None,
    lr: Annotated[
        float | None,
        _option("--lr", group=TRAINING, metavar="X", help="Learning rate. [default: what suits the way]"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        _option(
            "--set",
            group=TRAINING,
            metavar="NAME=VALUE",
            help="Any other setting of `oneclip train`: precision=bf16, seed=1, weight_decay=0.05 …",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        _option("--resume", group=TRAINING, metavar="auto|FILE", help="Go on from a checkpoint of --out."),
    ] = None,
    threads: Annotated[
        int, _option("--threads", group=TRAINING, metavar="N", help="That read pictures. [default: 4]")
    ] = 4,
    device: options.Device = None,
) -> None:
    """Fine-tune a model, and say what it gained and what it forgot.

    After the training, the models between before and after (WiSE-FT, Wortsman et al. 2022) are evaluated on held-out
    pictures of the new task and on a task from before; the best compromise is written. In --out it leaves model/, which
    other commands take as --model, wise_ft.json, wise_ft.png, report.html, and for LoRA adapter/ in peft's form.

    \b
    Examples:
      oneclip finetune pocket pairs.csv -o tuned/
      oneclip finetune ViT-B/32 pairs.csv -o tuned/ --way lora --before imagenet/val/
      oneclip classify cat.jpg -l cat -l dog --model tuned/model
    """
    from oneclip.train.finetune import FinetuneCfg, has_a_sample
    from oneclip.train.finetune import finetune as run_finetune
    from oneclip.train.progress import ProgressBar

    if before is None and not has_a_sample(model):
        before = _ask(model)
    cfg = FinetuneCfg(
        model=model,
        data=data,
        out=out,
        way=(way.value if way is not None else "last" if last is not None else "full"),
        last=last,
        rank=rank,
        lora_alpha=lora_alpha,
        images=images,
        image_column=image_column,
        caption_column=caption_column,
        separator=separator,
        skip_missing=skip,
        max_pixels=max_pixels,
        threads=threads,
        eval_data=eval_data,
        eval_images=eval_images,
        split=split,
        before=before,
        before_images=before_images,
        alpha=_alpha(alpha),
        points=points,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        resume=resume,
        device=device,
        train=read_settings(setting or []),
    )
    _tell(run_finetune(cfg, ProgressBar(), advance=_tell_point))


def read_settings(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE to settings of the training, by name.

    Raises:
        typer.BadParameter: if one has no value, is no setting, or has an option of its own.
    """
    from oneclip.train.config import TrainCfg
    from oneclip.train.settings import NOTHING, Setting, settings, unknown

    known: dict[str, Setting] = {
        one.name: one for one in settings() if one.name in TrainCfg.__dataclass_fields__
    }
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise typer.BadParameter(f"--set is NAME=VALUE, as in precision=bf16; found {text!r}")
        if name not in known or name in ("lr", "steps"):
            own = name in ("lr", "steps")
            raise typer.BadParameter(f"--{name} is an option of its own" if own else unknown(name))
        values[name] = (
            None if known[name].is_optional and value == NOTHING else _value(known[name].kind, name, value)
        )
    return values


def _value(kind: type, name: str, text: str) -> Any:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise typer.BadParameter(f"--set {name}={text}: {text!r} is no {kind.__name__}") from None


def _alpha(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _ask(model: str) -> str | None:
    """What to compare with, from a person; None where there is none, and the library says that it needs to know."""
    from oneclip.train.finetune import CHOICES

    if not is_terminal():
        return None
    say(f"what {model} could do before must be measured somewhere, to see what it forgets: {CHOICES}")
    answer: str = typer.prompt("before", err=True)
    return answer.strip()


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _tell_point(point: Point) -> None:
    say(f"alpha {point.alpha:g} evaluated")


def _tell(result: FinetuneResult) -> None:
    """The end of a fine-tuning, for a person; exits with a code that says how it went."""
    from oneclip.train.finetune import gained_and_forgotten

    run = result.run
    if run.rows_left_out:
        say(
            f"{run.rows_left_out} rows of the table lack a picture or a caption and were left out",
            kind="note",
        )
    for name, reason in sorted(result.skipped.items()):
        say(f"{name} was left out: {reason}", kind="note")
    for note in result.notes:
        say(note, kind="note")
    if run.outcome.interrupted or result.path is None:
        say(
            f"interrupted after step {run.outcome.step} of {run.steps}; all of it is in {run.outcome.checkpoint}. "
            "Go on with the same command and --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED)
    print(f"wrote {run.model} (alpha {result.path.chosen:g})")
    if result.adapter is not None:
        print(f"wrote {result.adapter}")
    for line in gained_and_forgotten(result.path):
        print(line)
    if result.skipped:
        raise typer.Exit(ExitCode.SKIPPED)
