"""`oneclip pull`: download all that a model needs, into the caches or into one folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, say
from oneclip.cli.progress_bars import after_two_seconds
from oneclip.errors import AmbiguousModelError, MissingExtraError, OneCLIPError


@dataclass(frozen=True)
class Pulled:
    """What is here now of one model; the fields are those of the JSON output.

    Attributes:
        name: as it was given.
        path: of its weights, or of the folder that was made.
        bytes: of all its files together.
        tokenizer: what its captions are read with: "CLIP", or the repository that has it.
    """

    name: str
    path: str
    bytes: int
    tokenizer: str


def pull(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Models that `oneclip models` lists, or hf-hub:OWNER/NAME."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME", help="The same as MODEL, given as an option."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Write a folder with one model that loads by its path.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the model in FOLDER.")] = False,
    as_json: options.Json = False,
) -> None:
    """Download models ahead, with all that they need, and verify them.

    Weights, configuration, preprocessing and tokenizer: then the model loads without a network (ONECLIP_OFFLINE=1).
    Files that are here are not downloaded again, and after Ctrl-C the same command resumes. If one model cannot be
    downloaded, the others still are.

    \b
    Examples:
      oneclip pull ViT-B/32 hf-hub:timm/ViT-B-16-SigLIP
      oneclip pull ViT-B-16-SigLIP:webli -o siglip
    """
    names = [*(models or ()), *(model or ())]
    if not names:
        raise typer.BadParameter("no model is given: oneclip pull MODEL")
    if folder is not None and len(names) > 1:
        raise typer.BadParameter(
            "--out writes a folder of one model: name one, and run the command once for each"
        )
    done: list[Pulled] = []
    failed: list[tuple[str, OneCLIPError]] = []
    for name in dict.fromkeys(names):
        try:
            with after_two_seconds(f"downloading {name} …"):
                done.append(_fetch(name) if folder is None else _write(name, folder, force))
        except OneCLIPError as error:
            if len(names) == 1:
                raise
            say(f"{name}: {error}", kind="error")
            failed.append((name, error))
    _show(done, failed, as_json)
    if failed:
        say(f"{len(failed)} of {len(done) + len(failed)} models failed: {', '.join(n for n, _ in failed)}")
        raise typer.Exit(ExitCode.ERROR)


def _fetch(name: str) -> Pulled:
    """Bring everything here that a model loads from, and look into it; no model is built."""
    options.find_model(name)
    from oneclip import checkpoint, hub, text, zoo

    found = checkpoint.examine(zoo.resolve(name), values=False)
    try:
        cfg = checkpoint.settled(found).cfg
    except AmbiguousModelError:
        if found.cfg is None:
            raise
        cfg = found.cfg  # all is here, and loading asks for what it does not say
    files = {*found.checkpoint.files, found.path, *text.tokenizer_files(cfg.text_cfg, found.home).values()}
    if (tower := cfg.text_cfg.hf_model_name) and not _is_known(tower):
        files.add(hub.hub_file(tower, "config.json"))
    try:
        text.get_tokenizer(cfg.text_cfg, found.home)
    except MissingExtraError as error:  # which may be installed where it is used
        say(f"{name}: {error}", kind="note")
    return Pulled(name, str(found.path), _bytes(files), cfg.text_cfg.hf_tokenizer_name or zoo.CLIP_TOKENIZER)


def _write(name: str, folder: Path, force: bool) -> Pulled:
    """Make a folder of a model, in the precision of its file, and load it."""
    options.find_model(name)
    from oneclip import checkpoint, zoo

    found = checkpoint.describe(zoo.resolve(name))
    model = checkpoint.build_blank(found.cfg)
    checkpoint.load_into(model, found.checkpoint.state_dict, source=str(found.path))
    loaded = checkpoint.Loaded(model, found.cfg, found.preprocess_cfg, name, found.home)
    whole = checkpoint.Exportable.of(loaded, found.checkpoint.state_dict)
    if found.checkpoint.format == "quantised":  # and so it stays, though only this library can read it then
        whole = replace(whole, state_dict=checkpoint.quantised(whole.state_dict))
    checkpoint.write_folder(whole, folder, force=force)
    tokenizer = found.cfg.text_cfg.hf_tokenizer_name
    del found, model, loaded, whole
    checkpoint.load(folder, device="cpu").tokenizer()
    return Pulled(name, str(folder), _bytes(folder.iterdir()), tokenizer or zoo.CLIP_TOKENIZER)


def _is_known(tower: str) -> bool:
    """Whether a text tower of transformers' is built without asking anybody for its configuration."""
    from oneclip import zoo

    return zoo.text_tower(tower) is not None or Path(tower).expanduser().exists()


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _show(done: list[Pulled], failed: list[tuple[str, OneCLIPError]], as_json: bool) -> None:
    if as_json:
        reasons = [{"name": name, "reason": str(error)} for name, error in failed]
        print(json.dumps({"models": [asdict(each) for each in done], "failed": reasons}, indent=2))
    elif done:
        from oneclip.cli.table_output import Column, print_table

        columns = [Column("name", "cyan"), Column("size", right=True), Column("tokenizer"), Column("where")]
        rows = [[each.name, f"{each.bytes / 1e6:,.1f} MB", each.tokenizer, each.path] for each in done]
        print_table(columns, rows)
