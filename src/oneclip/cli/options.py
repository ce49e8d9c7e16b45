"""Options that several commands share, and what they lead to."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class Precision(str, Enum):
    """What is computed with."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"
    auto = "auto"


Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="NAME", help="A name that `oneclip models` lists, a file or a folder."
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 … [default: a GPU if there is one]"),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Of the arithmetic; auto for bf16 where the processor has it."),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, metavar="N", help="Pictures that go through the model at once.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, metavar="N", help="Refuse larger pictures. [default: 178956970]"),
]
Skip = Annotated[
    bool,
    typer.Option(
        "--skip", help="Leave out what cannot be read, say so, and exit with 3; otherwise it is an error."
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--part", metavar="KEY", help="Of a training checkpoint: the weights by this key, as of an EMA."
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="TEXT",
        help='Where a file holds more than a model: its names begin so, as "net.".',
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of a table for people.")]


ModelToo = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="The same as MODEL, given as an option.", show_default=False
    ),
]


def one_model(argument: str | None, option: str | None, usage: str) -> str:
    """The name of a model that is given by its place, or as `--model`.

    Raises:
        typer.BadParameter: if it is given twice, or not at all.
    """
    if argument is not None and option is not None:
        raise typer.BadParameter(f"two models are given, {argument} and --model {option}: {usage}")
    name = option if argument is None else argument
    if name is None:
        raise typer.BadParameter(f"no model is given: {usage}")
    return name


def find_model(name: str) -> None:
    """Fetch a model's weights, or fail at once for a name that means nothing: torch takes seconds to import.

    Raises:
        UnknownModelError, AmbiguousModelError: as of `zoo.resolve`.
        DownloadError: if published weights are not here and cannot be fetched.
    """
    from oneclip import hub, zoo
    from oneclip.text.choose import MODEL_FILES

    source = zoo.resolve(name)
    if source.pretrained is not None:
        hub.fetch_weights(source.pretrained)
    elif source.repo is not None and hub.offline():
        hub.hub_file(source.repo, MODEL_FILES, subfolder=source.subfolder, revision=source.revision)


def load_encoder(name: str, device: str | None, precision: Precision, max_pixels: int | None) -> Encoder:
    """`oneclip.load`, with a word on stderr when it takes long."""
    from oneclip.cli.progress import after_two_seconds

    with after_two_seconds(f"loading {name} …"):
        find_model(name)
        import oneclip

        return oneclip.load(name, device=device, precision=precision.value, max_pixels=max_pixels)
