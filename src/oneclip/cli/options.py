"""Options that several commands share, and what they lead to."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli.exits import say

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class Precision(str, Enum):
    """What is computed with."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"
    auto = "auto"


class Truncated(str, Enum):
    """What becomes of images whose pixels break off."""

    refuse = "refuse"
    accept = "accept"


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
TruncatedOption = Annotated[
    Truncated,
    typer.Option(
        "--truncated", help="Images whose pixels break off: refuse them, or accept what there is of them."
    ),
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


def load_encoder(
    name: str,
    device: str | None,
    precision: Precision,
    max_pixels: int | None,
    truncated: Truncated = Truncated.refuse,
) -> Encoder:
    """`oneclip.load`, with a word on stderr when it takes long."""
    from oneclip.cli.progress import after_two_seconds

    with after_two_seconds(f"loading {name} …"):
        import oneclip

        encoder = oneclip.load(
            name,
            device=device,
            precision=precision.value,
            max_pixels=max_pixels,
            truncated=truncated.value,
        )
    tell_pocket(name)
    return encoder


def tell_pocket(name: str) -> None:
    """Say what "pocket" is for, if that is the model: of photographs it is confident, and wrong."""
    from oneclip.zoo import FOR_PHOTOGRAPHS, POCKET

    if name == POCKET:
        say(
            f"pocket knows drawings, icons and emoji; for photographs take --model {FOR_PHOTOGRAPHS}",
            kind="note",
        )
