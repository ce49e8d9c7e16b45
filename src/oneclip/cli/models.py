"""`oneclip models`: list the models that can be loaded, with size, accuracy and required extras."""

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
from oneclip.cli.exits import echo_stderr
from oneclip.errors import UnknownModelError
from oneclip.installation import install_command

if TYPE_CHECKING:
    from oneclip.config import ModelCfg
    from oneclip.zoo import ModelInfo

_EXTRA_MODULES = {"timm": "timm", "hf": "transformers"}  # the module that an extra installs
BYTES_PER_PARAMETER = 4  # most weights are published in float32
LONG_LIST = 10  # a longer list gets an explanation of its columns
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


@dataclass(frozen=True)
class ModelEntry:
    """Row of the list, in the fields of the JSON output.

    Attributes:
        name: for `--model` and `oneclip.load`.
        architecture: None for "pocket", whose file contains its configuration.
        tag: of the weights; None for an architecture without weights, and for "pocket".
        family: of the architecture.
        pixels: (height, width) of the input images.
        parameters: number of parameters.
        image_parameters: number of parameters of the image tower.
        embed_dim: D, the size of an embedding.
        context_length: maximum number of tokens.
        tokenizer: "CLIP", or the repository of the tokenizer.
        kind: source of the towers: "native", "timm", "hf" or "coca".
        extras: extras that must be installed.
        missing_extras: extras that are not installed here.
        path: of the file on this machine, or None.
        bytes: size of that file, or None.
        imagenet: published zero-shot accuracy on ImageNet, 0 to 1, or None.
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


def _parse_count(text: str) -> float:
    """Parse a number of parameters: 150M, 1.2B, 400000000."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmbg]?)", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a number of parameters; write it like 150M or 1.2B")
    return float(match[1]) * _UNITS[match[2]]


def models(
    search: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only models with these words in the name.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="NAME", help="Only models of this family: CLIP, SigLIP, EVA …"),
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
            help="Only models with this input height or width.",
        ),
    ] = None,
    min_params: Annotated[
        float | None,
        typer.Option(
            "--min-params",
            metavar="N",
            parser=_parse_count,
            help="Only models with at least this many parameters: 300M, 1B.",
        ),
    ] = None,
    max_params: Annotated[
        float | None,
        typer.Option(
            "--max-params",
            metavar="N",
            parser=_parse_count,
            help="Only models with at most this many parameters: 150M.",
        ),
    ] = None,
    untrained: Annotated[
        bool,
        typer.Option("--untrained", help="Also list architectures without published weights, for training."),
    ] = False,
    here: Annotated[bool, typer.Option("--here", help="Only models that are on this machine.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """List the models that can be loaded.

    Models that are not on this machine are downloaded on first use, or earlier with `oneclip pull`. Files, folders
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
    filters = {
        f"--family {family}": family,
        f"--tag {tag}": tag,
        f"--resolution {resolution}": resolution,
        f"--min-params {min_params or 0:g}": min_params,
        f"--max-params {max_params or 0:g}": max_params,
    }
    used = [option for option, value in filters.items() if value is not None]
    entries = [_entry(each) for each in found]
    if not used and _folded(search or "") in "pocket":
        entries.insert(0, _pocket_entry(zoo.pocket_path()))
    if not entries:
        _explain_empty_list(search, used)
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
    _print_summary(entries)


def _explain_empty_list(search: str | None, filters: Sequence[str]) -> None:
    """Print why the list is empty; raise UnknownModelError if no model has the name."""
    from oneclip import zoo

    if search and not zoo.search(search, untrained=True):
        names = [
            *zoo.OPENAI_NAMES,
            *zoo.families(),
            *zoo.architectures(),
            *(e.name for e in zoo.all_models()),
        ]
        raise UnknownModelError(search, names, hint="`oneclip models` lists them.")
    if search and not zoo.search(search):
        echo_stderr(
            f"{search} has no published weights; `oneclip models {search} --untrained` lists it", kind="note"
        )
    else:
        echo_stderr(f"no model matches {' and '.join(filters)}", kind="note")


def _entry(found: ModelInfo) -> ModelEntry:
    from oneclip import hub

    path = hub.cached_weights(found.pretrained) if found.pretrained else None
    return ModelEntry(
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
        missing_extras=[extra for extra in found.extras if find_spec(_EXTRA_MODULES[extra]) is None],
        path=str(path) if path else None,
        bytes=path.stat().st_size if path else None,
        imagenet=found.imagenet,
    )


def _pocket_entry(path: Path) -> ModelEntry:
    """Describe the bundled model from the header of its file."""
    from oneclip.config import ModelCfg

    cfg: ModelCfg | None = None
    sizes: Sequence[int | None] = (None, None)
    if path.is_file():
        with path.open("rb") as file:
            # a safetensors file starts with the size of its header, which is JSON
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        metadata = json.loads(header.pop("__metadata__")["oneclip"])
        cfg = ModelCfg.from_dict(metadata["model_cfg"])
        sizes = _count_parameters(header)
    size = cfg.vision_cfg.image_size if cfg else None
    return ModelEntry(
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


def _count_parameters(tensors: dict[str, dict[str, list[int]]]) -> tuple[int, int]:
    """Count the parameters in a safetensors header: all, and those of the image tower."""
    from math import prod

    buffers = re.compile(r".*\.(running_mean|running_var|num_batches_tracked|scale)")
    counts = {name: prod(tensor["shape"]) for name, tensor in tensors.items() if not buffers.fullmatch(name)}
    return sum(counts.values()), sum(count for name, count in counts.items() if name.startswith("visual."))


def _folded(name: str) -> str:
    return name.lower().replace("/", "-")


def _row(entry: ModelEntry) -> list[str]:
    height, width = entry.pixels or (0, 0)
    size = "" if not entry.pixels else str(height) if height == width else f"{height}x{width}"
    count = f"{entry.parameters / 1e6:,.0f} M" if entry.parameters else ""
    accuracy = f"{100 * entry.imagenet:.1f} %" if entry.imagenet is not None else ""
    download = "here" if entry.path else "" if entry.tag is None else _download_size(entry.parameters or 0)
    return [entry.name, entry.family or "", size, count, accuracy, download, ", ".join(entry.extras)]


def _download_size(parameters: int) -> str:
    size = parameters * BYTES_PER_PARAMETER
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _print_summary(entries: Sequence[ModelEntry]) -> None:
    """Print the number of models, the meaning of the columns, and how to install missing extras."""
    from oneclip import zoo

    listed = [entry for entry in entries if entry.tag or not entry.architecture]
    here = sum(entry.path is not None for entry in listed)
    count = "1 model" if len(listed) == 1 else f"{len(listed)} models"
    echo_stderr(f"{count}, {here} of them on this machine; the others are downloaded on first use")
    if len(listed) > LONG_LIST:
        echo_stderr(
            "weights with two names are listed once (ViT-B-32-quickgelu:openai is ViT-B/32). ImageNet: published "
            "zero-shot accuracy. Download: an upper limit, at 4 bytes per parameter"
        )
        echo_stderr(
            f"recommended for photographs: {zoo.RECOMMENDED_FOR_PHOTOS} (the most accurate that is fast on a CPU); "
            "for drawings: pocket, which is included"
        )
    missing = sorted({extra for entry in entries for extra in entry.missing_extras})
    if missing:
        echo_stderr(
            f"some of them need packages that are not installed: {install_command(','.join(missing))}"
        )
