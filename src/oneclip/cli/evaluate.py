"""`oneclip evaluate`: measure how good models are, on data of one's own and on published suites."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.images import echo_not_read, echo_skipped
from oneclip.cli.progress_bars import throughput_bar
from oneclip.embed.items import Failure
from oneclip.errors import OutputError
from oneclip.hub.file_types import UnsupportedFiles
from oneclip.hub.pairs import is_pairs_table

if TYPE_CHECKING:
    from oneclip.encoder import Encoder
    from oneclip.evaluate.encodings import Report
    from oneclip.evaluate.result import Result
    from oneclip.evaluate.run import Data, EvaluationEvents

# ends of file names in a folder with a model
OF_MODELS = (*(".safetensors", ".bin", ".pt", ".pth", ".npz", ".metadata"), *("config.json", "modules.json"))
BUILD = "build"  # as in CLIP_benchmark; a model of this name is ./build
DATA, TASK, OUTPUT = "Options of the data", "Options of the tasks", "Options of the output"


class MethodChoice(str, Enum):
    """Choices of --method."""

    linear = "linear"
    tip_adapter = "tip-adapter"


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Names from `oneclip models`, files or folders.", show_default=False
        ),
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME", help="Same as MODEL.", show_default=False),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Folder of classes, table of captions, Hugging Face data set on disk, webdataset folder (local, or "
            "the hub's wds/NAME). Can be repeated.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME|FILE",
            help="vtab+, vtab, retrieval, imagenet-robustness, datacomp, or a TOML file.",
            rich_help_panel=DATA,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            help="Folder with the data sets of --suite. [default: the hub]",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Split to measure on. [default: test, or val]",
            rich_help_panel=DATA,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Class names, one per line. [default: those of the data set]",
            rich_help_panel=DATA,
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            "--templates",
            metavar="simple|imagenet|FILE|TEXT",
            help="Prompts for classes: 7 or 80 of ImageNet's, a file with one per line, or one prompt; {} is the name. "
            "[default: those of the data set, or simple]",
            rich_help_panel=DATA,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder that image paths are relative to. [default: the table's folder]",
            rich_help_panel=DATA,
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            "--image-column",
            metavar="NAME",
            help="Column with image paths. [default: filepath]",
            rich_help_panel=DATA,
        ),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(
            "--caption-column",
            metavar="NAME",
            help="Column with captions. [default: caption]",
            rich_help_panel=DATA,
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column",
            metavar="NAME",
            help="Column with classes. [default: detected]",
            rich_help_panel=DATA,
        ),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            "--group-column",
            metavar="NAME",
            help="Column that divides the images into groups; the worst group is reported.",
            rich_help_panel=DATA,
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            "--separator",
            metavar="CHAR",
            help="Separator of CSV columns, or tab. [default: detected]",
            rich_help_panel=DATA,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            metavar="CODE",
            help="Language of class names and captions, for result files. [default: en]",
            rich_help_panel=DATA,
        ),
    ] = None,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip",
            help="Skip images that do not exist; otherwise they are an error.",
            rich_help_panel=DATA,
        ),
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="auto (zero-shot or what fits the data), zero-shot, retrieval, multilabel, caption-selection, "
            "linear-probe or few-shot. Can be repeated. [default: auto]",
            rich_help_panel=TASK,
            show_default=False,
        ),
    ] = None,
    recall_k: Annotated[
        str,
        typer.Option("--recall-k", metavar="LIST", help="k of recall at k.", rich_help_panel=TASK),
    ] = "1,5,10",
    shots: Annotated[
        str,
        typer.Option(
            "--shots", metavar="LIST", help="Images per class of few-shot learning.", rich_help_panel=TASK
        ),
    ] = "1,2,4,8,16",
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            metavar="N",
            help="How often images are drawn for each of --shots.",
            rich_help_panel=TASK,
        ),
    ] = 3,
    method: Annotated[
        MethodChoice,
        typer.Option("--method", help="Method of few-shot learning.", rich_help_panel=TASK),
    ] = MethodChoice.linear,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, metavar="N", help="Seed of a linear probe.", rich_help_panel=TASK),
    ] = 0,
    compat: Annotated[
        bool,
        typer.Option(
            "--compat", help="Compute every figure exactly as CLIP_benchmark.", rich_help_panel=TASK
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder of result files and report.html; finished results in it are not computed again.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="HTML report. [default: report.html in --out]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Show the difference of each model to the first, with its interval.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=OUTPUT)
    ] = False,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="FOLDER|none",
            help="Embeddings of images and texts, so that each is encoded once. [default: ~/.cache/clip/embeddings]",
        ),
    ] = None,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    batch_size: options.BatchSizeOption = 32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
) -> None:
    """Measure the accuracy of models.

    Zero-shot classification for data with classes, retrieval in both directions for captions; a linear probe and
    few-shot learning for data that also has a split train. Images that cannot be read are skipped and listed, and the
    exit code is 3.

    `oneclip evaluate build DIR... --out FILE.csv` makes one table of result files.

    \b
    Examples:
      oneclip evaluate pocket --data held_out.csv --images images/
      oneclip evaluate ViT-B/32 --data imagenet/val/ --templates imagenet --json
      oneclip evaluate ViT-B/32 ViT-B/16 --data flowers/ --task zero-shot --task linear-probe --compare
      oneclip evaluate ViT-B/32 --suite vtab+ --out results/
      oneclip evaluate build results/ --out benchmark.csv
    """
    if models and models[0] == BUILD:
        _build(models[1:], out or "benchmark.csv")
        return
    names = [*(name for name in models or [] if not _is_data(name)), *(model_option or [])]
    sources = [*(data or []), *(name for name in models or [] if _is_data(name))]
    _check_names(names, sources, suite)
    if report and not os.path.isdir(folder := os.path.dirname(report) or "."):
        raise OutputError(f"{report} cannot be written: there is no folder {folder}")
    opening = {
        "split": split,
        "classes": classes,
        "templates": templates,
        "images": images,
        "image_column": image_column,
        "caption_column": caption_column,
        "label_column": label_column,
        "group_column": group_column,
        "separator": _parse_separator(separator),
        "skip_missing": skip or None,
        "language": language,
    }
    loading = {"precision": precision.value, "max_pixels": max_pixels, "truncated": truncated.value}
    encoders: dict[str, Encoder] = {}

    def load(name: str) -> Encoder:
        encoders[name] = options.load_encoder(name, device, precision, max_pixels, truncated)
        return encoders[name]

    from oneclip.cli.evaluate_output import as_document, print_comparison, print_results
    from oneclip.evaluate.evaluated_model import EvaluatedModel
    from oneclip.evaluate.report import write_report
    from oneclip.evaluate.run import evaluate_all
    from oneclip.evaluate.scoring import TaskOptions, parse_numbers

    task_options = TaskOptions(
        parse_numbers(recall_k, "--recall-k"),
        parse_numbers(shots, "--shots"),
        seeds,
        method.value,
        seed,
        compat,
    )
    everything = _data_sets(sources, suite, root)
    tasks = task or ["auto"]
    failed: list[Failure] = []
    with _kept_on_interrupt(cache, out), ExitStack() as stack:
        results = evaluate_all(
            [EvaluatedModel(name, load, loading) for name in names],
            everything,
            tasks=tasks,
            options=task_options,
            out=out,
            cache=False if cache == "none" else cache,
            batch_size=batch_size,
            events=_events(stack, failed, goes_on=len(everything) * len(tasks) > 1),
            **{key: value for key, value in opening.items() if value is not None},
        )
    if as_json:
        print(as_document(results, failed, compare=compare))
    elif results:
        print_results(results)
        if compare:
            print_comparison(results)
    if results and (report or out):
        path = report or os.path.join(out or "", "report.html")
        write_report(path, results, encoders=encoders, failed=failed)
        echo_stderr(f"report: {path}")
    _finish(results, failed)


@contextmanager
def _kept_on_interrupt(cache: str | None, out: str | None) -> Iterator[None]:
    """Print what Ctrl-C leaves, and how to go on, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        kept = [
            *(["the embeddings so far"] if cache != "none" else []),
            *([f"the finished results in {out}"] if out else []),
        ]
        what = (
            f"{' and '.join(kept)} are kept, so the same command goes on from there"
            if kept
            else "nothing is kept"
        )
        echo_stderr(f"interrupted; {what}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _build(paths: list[str], target: str) -> None:
    """Make one CSV of result files."""
    if not paths:
        raise typer.BadParameter("no results given: oneclip evaluate build DIR... --out FILE.csv")
    from oneclip.evaluate.result_files import build_table

    rows, bad = build_table(paths, target)
    echo_skipped(bad)
    echo_stderr(f"wrote {rows} result{'s' * (rows != 1)} to {target}")
    if bad:
        raise typer.Exit(ExitCode.SKIPPED)


def _is_data(name: str) -> bool:
    """Return whether a name after `--data A`, which the parser takes for a model, is another data set: `--data A B`."""
    if os.path.isdir(name):
        from oneclip.runtime.exported_model import is_exported

        return not is_exported(name) and not any(file.endswith(OF_MODELS) for file in os.listdir(name))
    return name.startswith("wds/") or (is_pairs_table(name) and os.path.exists(name))


def _check_names(models: list[str], data: list[str], suite: str | None) -> None:
    """Check what is required, and that models exist, before torch is imported, which takes seconds."""
    usage = "oneclip evaluate MODEL... --data DATA"
    if not models:
        raise typer.BadParameter(f"no model given: {usage}")
    if not data and suite is None:
        raise typer.BadParameter(f"no data given: {usage}, or --suite NAME")
    for name in models:
        options.check_model(name)


def _data_sets(data: list[str], suite: str | None, root: str | None) -> list[Data]:
    from oneclip.evaluate.data import open_suite

    if root is not None and suite is None:
        raise typer.BadParameter("--root is only for --suite")
    return [*data, *(open_suite(suite, root) if suite is not None else [])]


def _events(stack: ExitStack, failed: list[Failure], *, goes_on: bool) -> EvaluationEvents:
    """Show progress on stderr, and go on with the next data set or task if one of several cannot be evaluated."""
    from oneclip.evaluate.run import EvaluationEvents

    def show_split(dataset: str, split: str) -> Report:
        stack.close()  # the bar of the split before
        return stack.enter_context(throughput_bar(f"images of {dataset}, {split}"))

    def show_result(result: Result, is_earlier: bool) -> None:
        stack.close()
        if goes_on:
            result.encoded = None  # not the images of all data sets at once; the report lists them again
        if is_earlier:
            what = f"{result.dataset.name}, {result.task}, {result.model}"
            echo_stderr(f"{what}: read from the result file", kind="note")

    def show_failure(failure: Failure) -> None:
        stack.close()
        failed.append(failure)
        echo_stderr(f"{failure.name} was not evaluated: {failure.reason}", kind="error")

    def show_note(note: str) -> None:
        stack.close()
        echo_stderr(note, kind="note")

    return EvaluationEvents(show_split, show_result, show_failure if goes_on else None, show_note)


def _finish(results: list[Result], failed: list[Failure]) -> None:
    """List what was skipped, each image once, and exit with the matching code."""
    skipped = list({(one.name, one.reason): one for result in results for one in result.skipped}.values())
    echo_skipped(skipped)
    not_read = UnsupportedFiles()
    for dataset in {id(result.dataset): result.dataset for result in results}.values():
        not_read.update(dataset.not_read)
    echo_not_read(not_read)
    if not results:
        raise typer.Exit(ExitCode.ERROR)
    if skipped or failed:
        raise typer.Exit(ExitCode.SKIPPED)


def _parse_separator(given: str | None) -> str | None:
    if given is None:
        return None
    separator = "\t" if given in ("\\t", "tab") else given
    if len(separator) != 1:
        raise typer.BadParameter(f"--separator is {given!r}; expected one character, or tab")
    return separator
