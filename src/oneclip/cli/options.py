"""Options that several commands share, and functions to check and load a model."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli.exits import echo_stderr
from oneclip.config.precision import PrecisionChoice as PrecisionChoice

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class TruncatedChoice(str, Enum):
    """Choices of --truncated."""

    refuse = "refuse"
    accept = "accept"


ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help="Name from `oneclip models`, a file or a folder."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps. [default: a GPU if there is one]"
    ),
]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(
        "--precision", help="Precision of the computation; auto: bf16 if the processor supports it."
    ),
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Images per batch.")]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels", min=1, metavar="N", help="Refuse images with more pixels. [default: 178956970]"
    ),
]
TruncatedOption = Annotated[
    TruncatedChoice,
    typer.Option(
        "--truncated", help="Image files that end early: refuse them, or accept the part that can be read."
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip", help="Skip inputs that cannot be read, list them, and exit with 3 instead of 1."),
]
PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="KEY",
        help="Key of the weights to use in a training checkpoint, such as state_dict_ema.",
    ),
]
PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="TEXT",
        help='Prefix of the weight names, if the file contains other weights too, such as "net.".',
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--template", metavar="TEXT", help="Sentence with {} where the label goes: 'a photo of a {}'."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ModelAliasOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="Same as MODEL.", show_default=False),
]


def require_one_model(argument: str | None, option: str | None, usage: str) -> str:
    """Return the model name from the argument or from `--model`.

    Raises:
        typer.BadParameter: if both or neither are given.
    """
    if argument is not None and option is not None:
        raise typer.BadParameter(f"two models given, {argument} and --model {option}: {usage}")
    name = option if argument is None else argument
    if name is None:
        raise typer.BadParameter(f"no model given: {usage}")
    return name


def check_model(name: str) -> None:
    """Check that a model exists, as far as its name shows, before torch is imported, which takes seconds.

    Nothing is downloaded before the rest of the command was checked.

    Raises:
        UnknownModelError, AmbiguousModelError: see `zoo.resolve`.
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
    precision: PrecisionChoice,
    max_pixels: int | None,
    truncated: TruncatedChoice = TruncatedChoice.refuse,
) -> Encoder:
    """Load a model; print a line on stderr if it takes long."""
    from oneclip.cli.progress_bars import message_if_slow

    with message_if_slow(f"loading {name} …"):
        check_model(name)
        import oneclip
        from oneclip.runtime.exported_model import is_exported

        # fp32 is the default here, which an exported folder may lack
        is_default = precision is PrecisionChoice.fp32 and is_exported(name)
        encoder = oneclip.load(
            name,
            device=device,
            precision=None if is_default else precision.value,
            max_pixels=max_pixels,
            truncated=truncated.value,
        )
    note_pocket_scope(name)
    return encoder


def note_pocket_scope(name: str) -> None:
    """Print a note if the model is "pocket", which is confident but wrong about photographs."""
    from oneclip.zoo import POCKET, RECOMMENDED_FOR_PHOTOS

    if name == POCKET:
        echo_stderr(
            f"pocket knows drawings (icons, emoji, clip art); for photographs use {RECOMMENDED_FOR_PHOTOS}",
            kind="note",
        )
