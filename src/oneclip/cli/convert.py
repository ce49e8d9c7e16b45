"""`oneclip convert`: write a model in another format, and compare the two."""

from __future__ import annotations

import json
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr
from oneclip.cli.progress_bars import message_if_slow
from oneclip.errors import AmbiguousModelError, CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from oneclip.checkpoint import DeclaredFacts, LoadedModel
    from oneclip.checkpoint.compare import ModelOutputs

ROUNDING_TOLERANCE = 2e-4  # larger relative differences are not rounding
OURS_KEY, TRANSFORMERS_KEY = "read back", "by transformers"


class TargetFormat(str, Enum):
    """Choices of --to."""

    transformers = "transformers"
    open_clip = "open_clip"
    openai = "openai"
    safetensors = "safetensors"


def convert(
    target_format: Annotated[TargetFormat, typer.Option("--to", help="Format to write.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL OUT",
            help="Model to convert (any model name, a file or a folder), and the folder or file to write.",
        ),
    ] = None,
    model: options.ModelAliasOption = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="OUT", help="Same as OUT."),
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--no-quick-gelu",
            help="Activation of MODEL, if its files do not specify it.",
            show_default=False,
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            "--heads",
            metavar="N[,N]",
            help="Attention heads of both towers, or of the image and text tower, if its files do not specify them.",
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess", metavar="openai", help="Preprocessing of MODEL, if its files do not specify it."
        ),
    ] = None,
    part: options.PartOption = None,
    prefix: options.PrefixOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Convert a model to another format, and compare the two.

    Weights are copied bit for bit. Both models are run, and the largest difference of their outputs is printed. A
    model that the format cannot represent is an error.

    \b
    Examples:
      oneclip convert ViT-B/32 clip-b32 --to transformers
      oneclip convert run/model model.pt --to openai
      oneclip convert run/epoch_9 model.safetensors --to safetensors
    """
    source, target = _source_and_target(list(paths or ()), model, out)
    options.check_model(source)
    from oneclip import checkpoint
    from oneclip.checkpoint import compare

    checkpoint.check_target(target, target_format.value, force=force)
    with message_if_slow(f"reading and running {source} …"):
        declared = checkpoint.DeclaredFacts(quick_gelu, _heads(heads), preprocess)
        loaded, stored = _read(source, declared, part, prefix)
        convertible = checkpoint.ConvertibleModel.from_loaded(loaded, stored)
        before = compare.run_model(loaded)
        del loaded  # to have one model at a time in memory
    with message_if_slow(f"writing {target} …"):
        notes = checkpoint.convert(convertible, target, target_format.value, force=force)
    with message_if_slow(f"reading and running {target} …"):
        again, stored = _read(target)
        count = compare.require_equal_tensors(
            convertible.state_dict, checkpoint.ConvertibleModel.from_loaded(again, stored).state_dict
        )
        found = {
            OURS_KEY: compare.relative_differences(
                compare.run_model(again, None if before.tokenized else before.ids), before
            )
        }
        del again, stored
        if target_format is TargetFormat.transformers and (
            by_them := _differences_in_transformers(target, before)
        ):
            found[TRANSFORMERS_KEY] = by_them
    for note in notes:
        echo_stderr(note, kind="note")
    if not before.tokenized:
        echo_stderr(
            f"the tokenizer of {source} was not found; the models were compared with token ids instead of texts",
            kind="note",
        )
    _print_result(target, target_format, count, found, as_json)
    worst = max(value for each in found.values() for value in each.values())
    if found[OURS_KEY] != dict.fromkeys(found[OURS_KEY], 0.0) or worst > ROUNDING_TOLERANCE:
        raise CheckpointError(f"{target} was written, but its outputs differ from those of {source}")


def _source_and_target(paths: list[str], model: str | None, out: str | None) -> tuple[str, Path]:
    """Return the model and the target; each is an argument or an option."""
    if len(paths) != (model is None) + (out is None):
        raise typer.BadParameter(
            "expected a model and a target: oneclip convert MODEL OUT --to FORMAT, or with -m MODEL and -o OUT; "
            f"found {' '.join(paths) or 'none'}"
        )
    source = paths.pop(0) if model is None else model
    return source, Path(paths.pop(0) if out is None else out)


def _heads(text: str | None) -> tuple[int, ...] | int | None:
    """Parse "16" or "16,8"."""
    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers) or len(numbers) > 2:
        raise typer.BadParameter(f"--heads is {text!r}; expected one number, or two as in 16,8")
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))


def _read(
    name: str | Path,
    declared: DeclaredFacts | None = None,
    part: str | None = None,
    prefix: str | None = None,
) -> tuple[LoadedModel, dict[str, Tensor]]:
    """Load a model in float32 on the CPU, and its tensors in the stored precision."""
    from oneclip import checkpoint, zoo

    try:
        found = checkpoint.resolve_checkpoint(
            zoo.resolve(name), declared=declared or checkpoint.DeclaredFacts(), part=part, prefix=prefix
        )
    except AmbiguousModelError as error:
        options = {
            "quick_gelu=": "--quick-gelu or --no-quick-gelu",
            "heads=": "--heads",
            "preprocess=": "--preprocess",
        }
        ways = ", ".join(option for argument, option in options.items() if argument in str(error))
        raise AmbiguousModelError(f"{error} (here: {ways})" if ways else str(error)) from error
    for note in found.notes:
        echo_stderr(note, kind="note")
    model = checkpoint.build_uninitialized(found.cfg)
    checkpoint.load_into(model, found.checkpoint.state_dict, source=str(found.path))
    loaded = checkpoint.LoadedModel(
        model.float().eval(), found.cfg, found.preprocess_cfg, str(name), found.home
    )
    return loaded, found.checkpoint.state_dict


def _differences_in_transformers(folder: Path, before: ModelOutputs) -> dict[str, float] | None:
    """Return the differences of the model in transformers, or None if it is not installed or fails."""
    from oneclip.checkpoint import compare

    try:
        return compare.relative_differences(compare.run_transformers(folder, before), before)
    except Exception as error:  # any version of another library
        if find_spec("transformers"):
            echo_stderr(f"transformers could not run the converted model: {_root_cause(error)}", kind="note")
        return None


def _root_cause(error: BaseException) -> str:
    """Return the message of the original error, which transformers wraps in one without details."""
    from oneclip.model.optional_package import remedy

    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0] + remedy(error)


def _print_result(
    target: Path, target_format: TargetFormat, count: int, found: dict[str, dict[str, float]], as_json: bool
) -> None:
    from oneclip.cli.table_output import Column, print_table

    if as_json:
        content: dict[str, Any] = {"path": str(target), "format": target_format.value, "tensors": count}
        print(json.dumps(content | {"differences": found}, indent=2))
        return
    print(f"{target}: {count} tensors, all bits equal")
    names = next(iter(found.values()))
    headings = ["file read back" if key == OURS_KEY else key for key in found]
    columns = [Column("largest relative difference"), *(Column(heading, right=True) for heading in headings)]
    print_table(
        columns, [[name, *(_format_difference(each[name]) for each in found.values())] for name in names]
    )


def _format_difference(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
