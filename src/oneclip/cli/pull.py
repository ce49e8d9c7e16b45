"""`oneclip pull`: download everything that a model needs, into the caches or a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.progress_bars import message_if_slow
from oneclip.errors import AmbiguousModelError, MissingExtraError, OneCLIPError


@dataclass(frozen=True)
class PulledModel:
    """Downloaded model, in the fields of the JSON output.

    Attributes:
        name: as it was given.
        path: of the weights, or of the folder that was written.
        bytes: size of all files together.
        tokenizer: "CLIP", or the repository of the tokenizer.
    """

    name: str
    path: str
    bytes: int
    tokenizer: str


def pull(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Names from `oneclip models`, or hf-hub:OWNER/NAME."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME", help="Same as MODEL."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Write one model to a folder, to load it by path.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the model in FOLDER.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Download models with everything they need, and verify them.

    Weights, configuration, preprocessing and tokenizer are downloaded, so that the model loads without a network
    (ONECLIP_OFFLINE=1). Cached files are not downloaded again, and after Ctrl-C the same command resumes. If one
    model cannot be downloaded, the others still are.

    \b
    Examples:
      oneclip pull ViT-B/32 hf-hub:timm/ViT-B-16-SigLIP
      oneclip pull ViT-B-16-SigLIP:webli -o siglip
    """
    names = [*(models or ()), *(model or ())]
    if not names:
        raise typer.BadParameter("no model given: oneclip pull MODEL")
    if folder is not None and len(names) > 1:
        raise typer.BadParameter("--out writes one model; run the command once for each model")
    from oneclip.zoo import POCKET

    done: list[PulledModel] = []
    failed: list[tuple[str, OneCLIPError]] = []
    for name in dict.fromkeys(names):
        try:
            with message_if_slow(f"{'copying' if name == POCKET else 'downloading'} {name} …"):
                done.append(_fetch(name) if folder is None else _write(name, folder, force))
        except OneCLIPError as error:
            if len(names) == 1:
                raise
            echo_stderr(f"{name}: {error}", kind="error")
            failed.append((name, error))
    _print_result(done, failed, as_json)
    if failed:
        echo_stderr(
            f"{len(failed)} of {len(done) + len(failed)} models failed: {', '.join(n for n, _ in failed)}"
        )
        raise typer.Exit(ExitCode.ERROR)


def _fetch(name: str) -> PulledModel:
    """Download everything that a model loads from, and check the files; no model is built."""
    options.check_model(name)
    from oneclip import checkpoint, hub, text, zoo

    found = checkpoint.gather_evidence(zoo.resolve(name), values=False)
    try:
        cfg = checkpoint.resolve_evidence(found).cfg
    except AmbiguousModelError:
        if found.cfg is None:
            raise
        cfg = found.cfg  # the files are complete; loading asks for the missing settings
    files = {*found.checkpoint.files, found.path, *text.tokenizer_files(cfg.text_cfg, found.home).values()}
    if (tower := cfg.text_cfg.hf_model_name) and not _has_known_config(tower):
        files.add(hub.hub_file(tower, "config.json"))
    try:
        text.get_tokenizer(cfg.text_cfg, found.home)
    except MissingExtraError as error:  # the package may be installed on the machine that uses the model
        echo_stderr(f"{name}: {error}", kind="note")
    return PulledModel(
        name, str(found.path), _bytes(files), cfg.text_cfg.hf_tokenizer_name or zoo.CLIP_TOKENIZER
    )


def _write(name: str, folder: Path, force: bool) -> PulledModel:
    """Write a model to a folder, in the precision of its file, and load it as a check."""
    options.check_model(name)
    from oneclip import checkpoint, zoo

    found = checkpoint.resolve_checkpoint(zoo.resolve(name))
    model = checkpoint.build_uninitialized(found.cfg)
    checkpoint.load_into(model, found.checkpoint.state_dict, source=str(found.path))
    loaded = checkpoint.LoadedModel(model, found.cfg, found.preprocess_cfg, name, found.home)
    whole = checkpoint.ConvertibleModel.from_loaded(loaded, found.checkpoint.state_dict)
    if found.checkpoint.format == "quantized":  # keep it quantized, which only this library can read
        whole = replace(whole, state_dict=checkpoint.quantize_state_dict(whole.state_dict))
    checkpoint.write_folder(whole, folder, force=force)
    tokenizer = found.cfg.text_cfg.hf_tokenizer_name
    del found, model, loaded, whole
    checkpoint.load(folder, device="cpu").tokenizer()
    return PulledModel(name, str(folder), _bytes(folder.iterdir()), tokenizer or zoo.CLIP_TOKENIZER)


def _has_known_config(tower: str) -> bool:
    """Return True if the configuration of a Hugging Face text tower needs no download."""
    from oneclip import zoo

    return zoo.text_tower(tower) is not None or zoo.local_path(tower)[1] is not None


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _print_result(done: list[PulledModel], failed: list[tuple[str, OneCLIPError]], as_json: bool) -> None:
    if as_json:
        reasons = [{"name": name, "reason": str(error)} for name, error in failed]
        print(json.dumps({"models": [asdict(each) for each in done], "failed": reasons}, indent=2))
    elif done:
        from oneclip.cli.table_output import Column, print_table

        columns = [Column("name", "cyan"), Column("size", right=True), Column("tokenizer"), Column("where")]
        rows = [[each.name, f"{each.bytes / 1e6:,.1f} MB", each.tokenizer, each.path] for each in done]
        print_table(columns, rows)
