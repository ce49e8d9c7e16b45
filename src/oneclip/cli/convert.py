"""`oneclip convert`: write a model in another form and compare the two."""

from __future__ import annotations

import json
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import say
from oneclip.cli.progress_bars import after_two_seconds
from oneclip.errors import AmbiguousModelError, CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from oneclip.checkpoint import Loaded, Said
    from oneclip.checkpoint.compare import Outputs

MUCH = 2e-4  # a relative difference that is more than rounding
OURS, THEIRS = "read back", "by transformers"


class Form(str, Enum):
    """What is written."""

    transformers = "transformers"
    open_clip = "open_clip"
    openai = "openai"
    safetensors = "safetensors"


def convert(
    form: Annotated[Form, typer.Option("--to", help="Form to write.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL OUT",
            help="What to convert (a file, a folder, any name of a model), and the folder (transformers, open_clip) or "
            "file to write.",
        ),
    ] = None,
    model: options.ModelToo = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="OUT", help="The same as OUT, given as an option."),
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--no-quick-gelu",
            help="The activation of MODEL, where MODEL does not say it.",
            show_default=False,
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            "--heads",
            metavar="N[,N]",
            help="Attention heads of MODEL, or of its image and its text tower, where MODEL does not say them.",
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess", metavar="openai", help="Preprocessing of MODEL, where MODEL does not say it."
        ),
    ] = None,
    part: options.Part = None,
    prefix: options.Prefix = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
    as_json: options.Json = False,
) -> None:
    """Convert a model to another form, and compare the two.

    Weights keep their precision and every bit. Both models are run, and the largest difference of their outputs is
    printed. A model that the form cannot hold is refused.

    \b
    Examples:
      oneclip convert ViT-B/32 clip-b32 --to transformers
      oneclip convert run/model model.pt --to openai
      oneclip convert run/epoch_9 model.safetensors --to safetensors
    """
    source, target = _from_and_to(list(paths or ()), model, out)
    options.find_model(source)
    from oneclip import checkpoint
    from oneclip.checkpoint import compare

    checkpoint.check_target(target, form.value, force=force)
    with after_two_seconds(f"reading and running {source} …"):
        said = checkpoint.Said(quick_gelu, _heads(heads), preprocess)
        loaded, stored = _read(source, said, part, prefix)
        exportable = checkpoint.Exportable.of(loaded, stored)
        before = compare.run(loaded)
        del loaded  # one model at a time in memory
    with after_two_seconds(f"writing {target} …"):
        notes = checkpoint.export(exportable, target, form.value, force=force)
    with after_two_seconds(f"reading and running {target} …"):
        again, stored = _read(target)
        count = compare.check_tensors(
            exportable.state_dict, checkpoint.Exportable.of(again, stored).state_dict
        )
        found = {
            OURS: compare.differences(compare.run(again, None if before.tokenized else before.ids), before)
        }
        del again, stored
        if form is Form.transformers and (by_them := _by_transformers(target, before)):
            found[THEIRS] = by_them
    for note in notes:
        say(note, kind="note")
    if not before.tokenized:
        say(
            f"the tokenizer of {source} was not found; the models were compared on token ids instead of texts",
            kind="note",
        )
    _show(target, form, count, found, as_json)
    worst = max(value for each in found.values() for value in each.values())
    if found[OURS] != dict.fromkeys(found[OURS], 0.0) or worst > MUCH:
        raise CheckpointError(f"{target} was written, but its outputs differ from those of {source}")


def _from_and_to(paths: list[str], model: str | None, out: str | None) -> tuple[str, Path]:
    """The model and the target, of which each is given by its place or as an option."""
    if len(paths) != (model is None) + (out is None):
        raise typer.BadParameter(
            "a model and a target were expected: oneclip convert MODEL OUT --to FORM, or with -m MODEL and -o OUT; "
            f"found {' '.join(paths) or 'none'}"
        )
    source = paths.pop(0) if model is None else model
    return source, Path(paths.pop(0) if out is None else out)


def _heads(text: str | None) -> tuple[int, ...] | int | None:
    """ "16" or "16,8" to the argument `heads`."""
    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers) or len(numbers) > 2:
        raise typer.BadParameter(f"--heads {text!r}: a number was expected, or two, as in 16,8")
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))


def _read(
    name: str | Path, said: Said | None = None, part: str | None = None, prefix: str | None = None
) -> tuple[Loaded, dict[str, Tensor]]:
    """A model in float32 on the CPU, and its tensors as they are stored."""
    from oneclip import checkpoint, zoo

    try:
        found = checkpoint.describe(
            zoo.resolve(name), said=said or checkpoint.Said(), part=part, prefix=prefix
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
        say(note, kind="note")
    model = checkpoint.build_blank(found.cfg)
    checkpoint.load_into(model, found.checkpoint.state_dict, source=str(found.path))
    loaded = checkpoint.Loaded(model.float().eval(), found.cfg, found.preprocess_cfg, str(name), found.home)
    return loaded, found.checkpoint.state_dict


def _by_transformers(folder: Path, before: Outputs) -> dict[str, float] | None:
    """The same by transformers itself, if it is installed."""
    from oneclip.checkpoint import compare

    try:
        return compare.differences(compare.run_transformers(folder, before), before)
    except Exception as error:  # another's program, of any version
        if find_spec("transformers"):
            say(f"transformers itself could not run it: {_reason(error)}", kind="note")
        return None


def _reason(error: BaseException) -> str:
    """What went wrong at first: transformers wraps the error of an import in another that only says that it failed."""
    from oneclip.model.optional_package import remedy

    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0] + remedy(error)


def _show(target: Path, form: Form, count: int, found: dict[str, dict[str, float]], as_json: bool) -> None:
    from oneclip.cli.table_output import Column, print_table

    if as_json:
        content: dict[str, Any] = {"path": str(target), "form": form.value, "tensors": count}
        print(json.dumps(content | {"differences": found}, indent=2))
        return
    print(f"{target}: {count} tensors, each bit as before")
    names = next(iter(found.values()))
    columns = [Column("relative difference"), *(Column(name, right=True) for name in found)]
    print_table(columns, [[name, *(_number(each[name]) for each in found.values())] for name in names])


def _number(value: float) -> str:
    return "none" if value == 0 else f"{value:.1e}"
