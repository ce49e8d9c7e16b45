"""`oneclip train`: a folder of pictures and a table of captions to a model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, say

if TYPE_CHECKING:
    from oneclip.train.run import RunResult


class TrainPrecision(str, Enum):
    """What forward passes compute in; weights are always fp32."""

    fp32 = "fp32"
    bf16 = "bf16"


def train(
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="TABLE", help="CSV or Parquet file with a picture and a caption a row."
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER", help="Where checkpoints and the model go.")
    ],
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="FOLDER", help="What paths are relative to. [default: the table's folder]"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="An architecture, or a JSON file that describes one."
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            metavar="NAME",
            help="Weights to start from: a tag or file of --model, or any model's name.",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, metavar="N", help="Times through the table.")
    ] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Pairs a batch.")] = 64,
    lr: Annotated[
        float,
        typer.Option(
            "--lr", min=0, metavar="X", help="Learning rate; take less, as 1e-5, with --pretrained."
        ),
    ] = 5e-4,
    warmup: Annotated[
        int | None, typer.Option("--warmup", min=0, metavar="N", help="Steps of warm-up. [default: a tenth]")
    ] = None,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", min=0, metavar="X", help="Of AdamW.")
    ] = 0.2,
    clip_norm: Annotated[
        float, typer.Option("--clip-norm", min=0, metavar="X", help="Of gradients; 0: none.")
    ] = 1.0,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", min=1, metavar="N", help="Batches a step; their gradients are averaged."
        ),
    ] = 1,
    precision: Annotated[
        TrainPrecision, typer.Option("--precision", help="bf16 is faster where the processor knows it.")
    ] = TrainPrecision.fp32,
    eval_data: Annotated[
        str | None, typer.Option("--eval-data", metavar="TABLE", help="Held-out pairs, evaluated each epoch.")
    ] = None,
    eval_images: Annotated[
        str | None,
        typer.Option(
            "--eval-images", metavar="FOLDER", help="For --eval-data. [default: --images, or its folder]"
        ),
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option("--eval-every", min=1, metavar="N", help="Steps. [default: an epoch]")
    ] = None,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            "--checkpoint-every", min=0, metavar="N", help="Steps, besides each epoch; 0: epochs only."
        ),
    ] = 0,
    keep: Annotated[int, typer.Option("--keep", min=0, metavar="N", help="Checkpoints to keep; 0: all.")] = 3,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="auto|FILE", help="Go on from the latest checkpoint in --out, or from one."
        ),
    ] = None,
    image_column: Annotated[
        str, typer.Option("--image-column", metavar="NAME", help="Column of picture paths.")
    ] = "filepath",
    caption_column: Annotated[
        str, typer.Option("--caption-column", metavar="NAME", help="Column of captions.")
    ] = "caption",
    separator: Annotated[
        str | None,
        typer.Option("--separator", metavar="CHAR", help="Between CSV columns. [default: found out]"),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of weights, order and augmentation.")
    ] = 0,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Memory format that convolutions may be faster in.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, metavar="N", help="That read pictures.")] = 4,
    log_every: Annotated[int, typer.Option("--log-every", min=1, metavar="N", help="Steps.")] = 10,
    device: options.Device = None,
    max_pixels: options.MaxPixels = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out pictures that are missing; otherwise they are an error.")
    ] = False,
) -> None:
    """Train a model on pictures and captions.

    Writes checkpoints (epoch_1.pt, …), metrics.jsonl and in the end model.safetensors, which other commands
    take as --model. Ctrl-C keeps what was done, and the same command with --resume auto goes on from there,
    with the losses of an unbroken run.

    \b
    Examples:
      oneclip train --data pairs.csv --images pictures/ --model ViT-B-32 --out run/ --precision bf16
      oneclip train --data pairs.csv --pretrained pocket --lr 1e-4 --eval-data held_out.csv --out run/
      oneclip classify cat.jpg -l cat -l dog --model run/model.safetensors
    """
    if model is None and pretrained is None:
        raise typer.BadParameter("say what to train: --model ViT-B-32, or --pretrained pocket, or both")
    if separator is not None:
        separator = "\t" if separator in ("\\t", "tab") else separator
        if len(separator) != 1:
            raise typer.BadParameter(f"--separator is one character, or tab; found {separator!r}")
    from oneclip.train.progress import ProgressBar
    from oneclip.train.run import RunCfg, Table, train_on_table

    def table(path: str, folder: str | None) -> Table:
        return Table(path, folder, image_column, caption_column, separator)

    settings = {
        "lr": lr,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm or None,
        "accumulate": accumulate,
        "precision": precision.value,
        "checkpoint_every": checkpoint_every,
        "keep": keep,
        "seed": seed,
        "channels_last": channels_last,
        "log_every": log_every,
    }
    cfg = RunCfg(
        data=table(data, images),
        out=Path(out),
        architecture=model,
        pretrained=pretrained,
        held_out=table(eval_data, eval_images or images) if eval_data is not None else None,
        epochs=epochs,
        batch_size=batch_size,
        warmup=warmup,
        resume=resume,
        device=device,
        threads=threads,
        max_pixels=max_pixels,
        skip_missing=skip,
        train=settings | ({"evaluate_every": eval_every} if eval_every is not None else {}),
    )
    _tell(train_on_table(cfg, ProgressBar()))


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
    print(f"wrote {result.model_file}")
    if result.skipped:
        raise typer.Exit(ExitCode.SKIPPED)
