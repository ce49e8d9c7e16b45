"""`oneclip models`: list the models that can be loaded, with their size, accuracy and needs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import say
from oneclip.errors import UnknownModelError

if TYPE_CHECKING:
    from oneclip.config import ModelCfg
    from oneclip.zoo import Found

_MODULES = {"timm": "timm", "hf": "transformers"}  # what an extra brings
BYTES_PER_PARAMETER = 4  # of weights as most are published, in float32
MANY = 10  # models in a list that need a word on its columns
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


@dataclass(frozen=True)
class Entry:
    """One line of the list; the fields are those of the JSON output.

    Attributes:
        name: what to give to `--model` and `oneclip.load`.
        architecture: its shape; None for "pocket", which brings its own.
        tag: which of the trained weights of that architecture; None if there are none, and for "pocket".
        family: of the architecture.
        pixels: (height, width) of its images.
        parameters: number of parameters.
        image_parameters: those of its image tower.
        embed_dim: D, the width of its embeddings.
        context_length: tokens of a text.
        tokenizer: "CLIP", or the repository that has it.
        kind: whose towers it has: "native", "timm", "hf" or "coca".
        extras: what must be installed beside the core.
        missing_extras: those that are not installed here.
        path: where its file lies on this machine, if it does.
        bytes: the size of that file.
        imagenet: published accuracy of zero-shot classification of ImageNet, 0 to 1; None if none was published.
    """

    name: str
    architecture: str | None
    tag: str | None
    family: str | None
    pixels: list[int] | None
    parameters: int | None
    image_parameters: int | None
    embed_dim: int | None
    context_length: int | None
    tokenizer: str | None
    kind: str | None
    extras: list[str]
    missing_extras: list[str]
    path: str | None
    bytes: int | None
    imagenet: float | None


def _count(text: str) -> float:
    """A number of parameters as people write it: 150M, 1.2B, 400000000."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmbg]?)", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a number of parameters; write 150M or 1.2B")
    return float(match[1]) * _UNITS[match[2]]


def models(
    search: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only models with these words in their name.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="NAME", help="Only models of a family: CLIP, SigLIP, EVA …"),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="TEXT", help="Only weights whose tag contains this: laion2b, dfn …"),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            "--resolution",
            min=1,
            metavar="PIXELS",
            help="Only models for images of this height or width.",
        ),
    ] = None,
    min_params: Annotated[
        float | None,
        typer.Option(
            "--min-params",
            metavar="N",
            parser=_count,
            help="Only models with at least so many parameters: 300M, 1B.",
        ),
    ] = None,
    max_params: Annotated[
        float | None,
        typer.Option(
            "--max-params",
            metavar="N",
            parser=_count,
            help="Only models with at most so many parameters: 150M.",
        ),
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Also architectures without published weights, for training.")
    ] = False,
    here: Annotated[bool, typer.Option("--here", help="Only models that are on this machine.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the models that can be loaded.

    Models that are not on this machine are downloaded when first loaded, or ahead by `oneclip pull`. Files, folders
    and repositories of the Hugging Face hub (hf-hub:OWNER/NAME) can be loaded, too.

    \b
    Examples:
      oneclip models
      oneclip models B-32 --json
      oneclip models --family siglip2 --max-params 400M
    """
    from oneclip import zoo

    found = zoo.search(
        search,
        family=family,
        tag=tag,
        resolution=resolution,
        min_params=min_params,
        max_params=max_params,
        untrained=untrained,
    )
    asked = {
        f"--family {family}": family,
        f"--tag {tag}": tag,
        f"--resolution {resolution}": resolution,
        f"--min-params {min_params or 0:g}": min_params,
        f"--max-params {max_params or 0:g}": max_params,
    }
    limits = [option for option, value in asked.items() if value is not None]
    entries = [_entry(each) for each in found]
    if not limits and _folded(search or "") in "pocket":
        entries.insert(0, _pocket(zoo.pocket_path()))
    if not entries:
        _explain(search, limits)
    entries = [entry for entry in entries if entry.path or not here]
    if as_json:
        print(json.dumps({"models": [asdict(entry) for entry in entries]}, indent=2))
        return
    from oneclip.cli.table_output import Column, print_table

    columns = [
        Column("name", "cyan", whole=True),
        Column("family", optional=True),
        Column("pixels", right=True),
        Column("parameters", right=True, optional=True),
        Column("ImageNet", right=True),
        Column("download", right=True),
        Column("needs", optional=True),
    ]
    print_table(columns, [_row(entry) for entry in entries])
    _conclude(entries)


def _explain(search: str | None, limits: Sequence[str]) -> None:
    """Say why nothing fits; an error if there is no such name."""
    from oneclip import zoo

    if search and not zoo.search(search, untrained=True):
        names = [
            *zoo.OPENAI_NAMES,
            *zoo.families(),
            *zoo.architectures(),
            *(e.name for e in zoo.everything()),
        ]
        raise UnknownModelError(search, names, hint="`oneclip models` lists them.")
    if search and not zoo.search(search):
        say(f"{search} has no published weights; `oneclip models {search} --untrained` lists it", kind="note")
    else:
        say(f"no model matches {' and '.join(limits)}", kind="note")


def _entry(found: Found) -> Entry:
    from oneclip import hub

    path = hub.weights_here(found.pretrained) if found.pretrained else None
    return Entry(
        name=found.name,
        architecture=found.architecture,
        tag=found.tag,
        family=found.family,
        pixels=list(found.image_size),
        parameters=found.parameters.total,
        image_parameters=found.parameters.image,
        embed_dim=found.embed_dim,
        context_length=found.context_length,
        tokenizer=found.tokenizer,
        kind=found.kind,
        extras=list(found.extras),
        missing_extras=[extra for extra in found.extras if find_spec(_MODULES[extra]) is None],
        path=str(path) if path else None,
        bytes=path.stat().st_size if path else None,
        imagenet=found.imagenet,
    )


def _pocket(path: Path) -> Entry:
    """The model in the wheel, whose file says what it is."""
    from oneclip.config import ModelCfg

    cfg: ModelCfg | None = None
    sizes: Sequence[int | None] = (None, None)
    if path.is_file():
        with path.open("rb") as file:
            # of a safetensors file only the header: the size of a JSON text, and that text
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        said = header.pop("__metadata__")["oneclip"]
        cfg = ModelCfg.from_dict(json.loads(said)["model_cfg"])
        sizes = _sizes(header)
    size = cfg.vision_cfg.image_size if cfg else None
    return Entry(
        name="pocket",
        architecture=None,
        tag=None,
        family="CLIP",
        pixels=None if size is None else [size, size] if isinstance(size, int) else list(size),
        parameters=sizes[0],
        image_parameters=sizes[1],
        embed_dim=cfg.embed_dim if cfg else None,
        context_length=cfg.text_cfg.context_length if cfg else None,
        tokenizer="CLIP",
        kind="native",
        extras=[],
        missing_extras=[],
        path=str(path) if cfg else None,
        bytes=path.stat().st_size if cfg else None,
        imagenet=None,
    )


def _sizes(tensors: dict[str, dict[str, list[int]]]) -> tuple[int, int]:
    """How many numbers a file's tensors stand for, and how many of them are the image tower's."""
    from math import prod

    derived = re.compile(r".*\.(running_mean|running_var|num_batches_tracked|scale)")  # no parameters
    counts = {name: prod(tensor["shape"]) for name, tensor in tensors.items() if not derived.fullmatch(name)}
    return sum(counts.values()), sum(count for name, count in counts.items() if name.startswith("visual."))


def _folded(name: str) -> str:
    return name.lower().replace("/", "-")


def _row(entry: Entry) -> list[str]:
    height, width = entry.pixels or (0, 0)
    size = "" if not entry.pixels else str(height) if height == width else f"{height}x{width}"
    count = f"{entry.parameters / 1e6:,.0f} M" if entry.parameters else ""
    accuracy = f"{100 * entry.imagenet:.1f} %" if entry.imagenet is not None else ""
    download = "here" if entry.path else "" if entry.tag is None else _download_size(entry.parameters or 0)
    return [entry.name, entry.family or "", size, count, accuracy, download, ", ".join(entry.extras)]


def _download_size(parameters: int) -> str:
    size = parameters * BYTES_PER_PARAMETER
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _conclude(entries: Sequence[Entry]) -> None:
    """Say what the table does not: how many there are, what its columns mean, and how to get what is missing."""
    from oneclip import zoo

    listed = [entry for entry in entries if entry.tag or not entry.architecture]
    here = sum(entry.path is not None for entry in listed)
    count = "1 model" if len(listed) == 1 else f"{len(listed)} models"
    say(f"{count}, {here} of them on this machine; the others are downloaded when first loaded")
    if len(listed) > MANY:
        say(
            "weights with two names are listed once (ViT-B-32-quickgelu:openai is ViT-B/32). ImageNet: published "
            "zero-shot accuracy. Download: at most, with 4 bytes a parameter"
        )
        say(
            f"recommended for photographs: {zoo.FOR_PHOTOGRAPHS} (of those that run fast on a CPU the most accurate); "
            "for drawings: pocket, which needs no download"
        )
    missing = sorted({extra for entry in entries for extra in entry.missing_extras})
    if missing:
        say(f"some of them need packages that are not installed: pip install 'oneclip[{','.join(missing)}]'")
