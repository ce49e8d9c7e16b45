"""`oneclip models`: what can be loaded, how large it is, what it needs, and what of it is on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
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
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


@dataclass(frozen=True)
class Entry:
    """One line of the list; the fields are those of the JSON output.

    Attributes:
        name: what to give to `--model` and `oneclip.load`.
        architecture: its shape; None for "pocket", which brings its own.
        tag: which of the trained weights of that architecture; None if there are none, and for "pocket".
        family: of the architecture.
        pixels: (height, width) of the pictures it sees.
        parameters: how many numbers it consists of.
        image_parameters: those of its image tower.
        embed_dim: the width of its vectors.
        context_length: how many tokens of a caption it reads.
        tokenizer: "CLIP", or the repository that has it.
        kind: where its towers come from: "native", "timm", "hf" or "coca".
        extras: what must be installed beside the core.
        missing_extras: those that are not installed here.
        path: where its file lies on this machine, if it does.
        bytes: the size of that file.
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


def _count(text: str) -> float:
    """A number of parameters as people write it: 150M, 1.2B, 400000000."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmbg]?)", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is no number of parameters: write 150M, or 1.2B")
    return float(match[1]) * _UNITS[match[2]]


def models(
    search: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only those with these words in their name.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="NAME", help="Only those of a family: CLIP, SigLIP, EVA …"),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="TEXT", help="Only weights with this in their tag: laion2b, dfn …"),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            "--resolution", metavar="PIXELS", min=1, help="Only those that see pictures of this size."
        ),
    ] = None,
    min_params: Annotated[
        float | None,
        typer.Option(
            "--min-params", metavar="N", parser=_count, help="Only those this large or larger: 300M, 1B."
        ),
    ] = None,
    max_params: Annotated[
        float | None,
        typer.Option(
            "--max-params", metavar="N", parser=_count, help="Only those this small or smaller: 150M."
        ),
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Also architectures without published weights, to train from.")
    ] = False,
    here: Annotated[bool, typer.Option("--here", help="Only those that are on this machine.")] = False,
    as_json: options.Json = False,
) -> None:
    """List what can be loaded, and what is here.

    Models that are not on this machine are fetched when first loaded, or ahead by `oneclip pull`. Files, folders and
    repositories of the Hugging Face hub (hf-hub:OWNER/NAME) can be loaded, too.

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
    asked = {"a family": family, "a tag": tag, "a resolution": resolution, "a size": min_params or max_params}
    limits = [name for name, value in asked.items() if value]
    entries = [_entry(each) for each in found]
    if not limits and _folded(search or "") in "pocket":
        entries.insert(0, _pocket(zoo.pocket_path()))
    if not entries:
        _explain(search, limits)
    entries = [entry for entry in entries if entry.path or not here]
    if as_json:
        print(json.dumps({"models": [asdict(entry) for entry in entries]}, indent=2))
        return
    from oneclip.cli.tables import Column, print_table

    columns = [
        Column("name", "cyan"),
        Column("family"),
        Column("pixels", right=True),
        Column("parameters", right=True),
        Column("needs"),
        Column("here"),
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
        say(f"no model has {' and '.join(limits)} like that", kind="note")


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
    here = f"yes, {entry.bytes / 1e6:,.0f} MB" if entry.bytes is not None else ""
    return [entry.name, entry.family or "", size, count, ", ".join(entry.extras), here]


def _conclude(entries: Iterable[Entry]) -> None:
    """Say what the table does not: how many there are, and how to get what is missing."""
    listed = [entry for entry in entries if entry.tag or not entry.architecture]
    here = sum(entry.path is not None for entry in listed)
    count = "1 model" if len(listed) == 1 else f"{len(listed)} models"
    say(f"{count}, {here} of them on this machine; the others are fetched when first loaded")
    missing = sorted({extra for entry in entries for extra in entry.missing_extras})
    if missing:
        say(f"what some of them need is not installed here: pip install 'oneclip[{','.join(missing)}]'")
