"""Options that several commands share, and how they find and load a model."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli.exits import say

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class Precision(str, Enum):
    """The precision of the arithmetic."""

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
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps. [default: a GPU if there is one]"
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Precision of the arithmetic; auto: bf16 if the processor supports it."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Images per batch.")]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels", min=1, metavar="N", help="Refuse images with more pixels. [default: 178956970]"
    ),
]
TruncatedOption = Annotated[
    Truncated,
    typer.Option(
        "--truncated", help="Images whose pixels break off: refuse them, or accept what there is of them."
    ),
]
Skip = Annotated[
    bool,
    typer.Option("--skip", help="Leave out what cannot be read, list it, and exit with 3 instead of 1."),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="KEY",
        help="Which weights of a training checkpoint to take, by their key, such as state_dict_ema.",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="TEXT",
        help='Prefix of the names of the weights in a file that holds more, such as "net.".',
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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
    """Fail at once for a model that cannot be loaded, as far as its name shows it: torch takes seconds to import.

    Nothing is downloaded: that waits until the rest of the command is known to be right.

    Raises:
        UnknownModelError, AmbiguousModelError: as of `zoo.resolve`.
        OfflineError: if the network is switched off and the model is not on this machine.
    """
    from oneclip import hub, zoo
    from oneclip.text.factory import MODEL_FILES

    source = zoo.resolve(name)
    if not hub.offline():
        return
    if source.pretrained is not None:
        hub.fetch_weights(source.pretrained)
    elif source.repo is not None:
        hub.hub_file(source.repo, MODEL_FILES, subfolder=source.subfolder, revision=source.revision)


def load_encoder(
    name: str,
    device: str | None,
    precision: Precision,
    max_pixels: int | None,
    truncated: Truncated = Truncated.refuse,
) -> Encoder:
    """Load a model; a line on stderr says so if it takes long."""
    from oneclip.cli.progress_bars import after_two_seconds

    with after_two_seconds(f"loading {name} …"):
        find_model(name)
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
            f"pocket knows drawings (icons, emoji, clip art); for photographs use --model {FOR_PHOTOGRAPHS}",
            kind="note",
        )
