"""`oneclip models`: what can be loaded, how large it is, and what of it is on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import say
from oneclip.cli.sizes import count_parameters, is_buildable
from oneclip.errors import UnknownModelError

if TYPE_CHECKING:
    from oneclip.config import ModelCfg


@dataclass(frozen=True)
class Entry:
    """One line of the list; the fields are those of the JSON output.

    Attributes:
        name: what to give to `--model` and `oneclip.load`.
        architecture: its shape; None for "pocket", which brings its own.
        tag: which of the trained weights of that architecture.
        pixels: (height, width) of the pictures it sees.
        parameters: how many numbers it consists of.
        path: where its file lies on this machine, if it does.
        bytes: the size of that file.
    """

    name: str
    architecture: str | None
    tag: str | None
    pixels: list[int] | None
    parameters: int | None
    path: str | None
    bytes: int | None


def models(
    search: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only those with this in their name.")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only those that are on this machine.")] = False,
    as_json: options.Json = False,
) -> None:
    """List what can be loaded, and what is here.

    Models that are not on this machine are fetched when first loaded. Files, folders and repositories of the
    Hugging Face hub (hf-hub:OWNER/NAME) can be loaded, too.

    \b
    Examples:
      oneclip models
      oneclip models B-32 --json
    """
    listed = list(_entries())
    entries = [e for e in listed if _folded(search or "") in _folded(e.name) and (e.path or not here)]
    if search and not entries and not here:
        raise UnknownModelError(search, [e.name for e in listed], hint="`oneclip models` lists them.")
    if as_json:
        print(json.dumps({"models": [asdict(entry) for entry in entries]}, indent=2))
        return
    from oneclip.cli.tables import Column, print_table

    columns = [
        Column("name", "cyan"),
        Column("pixels", right=True),
        Column("parameters", right=True),
        Column("here"),
    ]
    print_table(columns, [_row(entry) for entry in entries])
    count = sum(entry.path is not None for entry in entries)
    say(f"{len(entries)} models, {count} of them on this machine; the others are fetched when first loaded")


def _entries() -> Iterator[Entry]:
    """Pocket, then OpenAI's models, then all others by name; weights that have two names come once."""
    from oneclip import hub, zoo

    yield _pocket(zoo.pocket_path())
    openai = [(name, architecture, "openai") for name, architecture in zoo.OPENAI_NAMES.items()]
    others = [
        (f"{arch}:{tag}", arch, tag) for arch in zoo.architectures() for tag in zoo.pretrained_tags(arch)
    ]
    seen = set()
    for name, architecture, tag in [*openai, *others]:
        weights, cfg = zoo.pretrained(architecture, tag), zoo.architecture(architecture)
        quick_gelu = cfg.quick_gelu if weights.quick_gelu is None else weights.quick_gelu
        published = (weights.url, weights.hf_hub, quick_gelu)
        if published not in seen and is_buildable(cfg):
            seen.add(published)
            yield _entry(name, architecture, tag, cfg, hub.weights_here(weights))


def _entry(name: str, architecture: str | None, tag: str | None, cfg: ModelCfg, path: Path | None) -> Entry:
    size = cfg.vision_cfg.image_size
    pixels = [size, size] if isinstance(size, int) else list(size)
    where, bytes_ = (str(path), path.stat().st_size) if path is not None else (None, None)
    return Entry(name, architecture, tag, pixels, count_parameters(cfg), where, bytes_)


def _pocket(path: Path) -> Entry:
    """The model in the wheel, whose file says what it is."""
    from oneclip.config import ModelCfg

    if not path.is_file():
        return Entry("pocket", None, None, None, None, None, None)
    with path.open(
        "rb"
    ) as file:  # of a safetensors file only the header: the size of a JSON text, and that text
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    said = json.loads(header["__metadata__"]["oneclip"])
    return _entry("pocket", None, None, ModelCfg.from_dict(said["model_cfg"]), path)


def _folded(name: str) -> str:
    """A name as people search for it: OpenAI writes ViT-B/32 what others write ViT-B-32."""
    return name.lower().replace("/", "-")


def _row(entry: Entry) -> list[str]:
    height, width = entry.pixels or (0, 0)
    size = "" if not entry.pixels else str(height) if height == width else f"{height}x{width}"
    count = f"{entry.parameters / 1e6:,.0f} M" if entry.parameters else ""
    here = f"yes, {entry.bytes / 1e6:,.0f} MB" if entry.bytes is not None else ""
    return [entry.name, size, count, here]
