"""`oneclip inspect`: show what a checkpoint is, without building or running it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError

if TYPE_CHECKING:
    from oneclip import zoo
    from oneclip.checkpoint import Examined
    from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg

SHOWN_METADATA = 12  # entries, of so many letters each, in the table for people
SHOWN_LETTERS = 80


@dataclass
class Report:
    """What is known of a checkpoint; the fields are those of the JSON output.

    Attributes:
        name: as it was given.
        files: of the checkpoint; none for published weights that are not on this machine.
        bytes: their size.
        format: what kind of checkpoint it is.
        part, other_parts: which dict of a training checkpoint counts, and which others there are.
        tensors, parameters: how many; statistics of batch norms are not parameters.
        dtypes: how many numbers of each type the files hold.
        architecture: the one that is named or published, or the first whose shapes fit.
        fits: published architectures with these shapes.
        nearest: the architecture with most of these shapes, and the share of tensors whose shapes are equal.
        activation: "QuickGELU" or "GELU"; None if it is not known.
        activation_by: what says so.
        tanh_gelu: which towers compute GELU by its tanh approximation, of "image" and "text".
        model_cfg: the fields that differ from their defaults; None if it is not known.
        preprocess_cfg: all of its fields; None if it is not known.
        tokenizer: which, and how long captions may be.
        metadata: other metadata of the file.
        notes: assumptions about it, a sentence each.
        loads: whether `oneclip.load` loads it by this name.
        problem: its error otherwise.
    """

    name: str
    files: list[str] = field(default_factory=list)
    bytes: int = 0
    format: str | None = None
    part: str | None = None
    other_parts: list[str] = field(default_factory=list)
    tensors: int | None = None
    parameters: int | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    architecture: str | None = None
    fits: list[str] = field(default_factory=list)
    nearest: tuple[str, float] | None = None
    activation: str | None = None
    activation_by: str | None = None
    tanh_gelu: list[str] = field(default_factory=list)
    model_cfg: dict[str, Any] | None = None
    preprocess_cfg: dict[str, Any] | None = None
    tokenizer: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    loads: bool = True
    problem: str | None = None


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A file, a folder, or any other name that can be loaded."),
    ] = None,
    model_option: options.ModelToo = None,
    part: options.Part = None,
    prefix: options.Prefix = None,
    as_json: options.Json = False,
) -> None:
    """Show what a checkpoint is, without building or running it.

    Format, architecture, activation, preprocessing, tokenizer. Nothing in a file is run, and no weights are read.
    Published weights that are not on this machine are not downloaded: the report says what is known of them.

    \b
    Examples:
      oneclip inspect pocket
      oneclip inspect run/epoch_9.pt --json
    """
    report = _report(options.one_model(model, model_option, "oneclip inspect MODEL"), part, prefix)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        _print(report)


def _report(name: str, part: str | None, prefix: str | None) -> Report:
    from oneclip import hub, zoo

    source = zoo.resolve(name)
    from oneclip import checkpoint  # which imports torch, for seconds

    if source.kind == "pretrained" and source.pretrained and not hub.weights_here(source.pretrained):
        return _of_absent(name, source)
    found = checkpoint.examine(source, part=part, prefix=prefix, values=False)
    return _of_examined(name, found)


def _of_absent(name: str, source: zoo.Source) -> Report:
    """Published weights that are not here."""
    from oneclip import zoo

    arch, weights = source.architecture, source.pretrained
    assert arch is not None
    assert weights is not None
    cfg = zoo.architecture(arch)
    if weights.quick_gelu is not None:
        cfg.quick_gelu = weights.quick_gelu
    report = Report(name, architecture=arch, activation=_activation(cfg.quick_gelu))
    report.activation_by = f"the published facts of {arch}:{weights.tag}"
    report.problem = f"its file is not on this machine; `oneclip pull {name}` downloads it"
    return _with_configs(report, cfg, weights.preprocess_cfg(cfg.vision_cfg.image_size))


def _of_examined(name: str, found: Examined) -> Report:
    from oneclip import checkpoint
    from oneclip.checkpoint.resolve import match_architecture

    held = found.checkpoint
    report = Report(name, files=[str(path) for path in held.files], format=found.format)
    report.bytes = sum(path.stat().st_size for path in held.files)
    report.part, report.other_parts = held.part, list(held.other_parts)
    report.tensors, report.parameters = len(held.state_dict), match_architecture.parameters(held.state_dict)
    report.dtypes = held.stored_dtypes
    report.fits, report.nearest = (
        match_architecture.fitting(held.state_dict),
        match_architecture.nearest(held.state_dict),
    )
    report.architecture = found.architecture or next(iter(report.fits), None)
    report.metadata = {key: held.metadata[key] for key in held.metadata if not key.endswith("_cfg")}
    if found.claims:
        report.activation = _activation(found.claims[0].quick_gelu)
        report.activation_by = found.claims[0].by
    cfg, pixels = found.cfg, found.preprocess_cfg
    try:
        described = checkpoint.settled(found)
        cfg, pixels = described.cfg, described.preprocess_cfg
        report.activation, report.activation_by = _activation(cfg.quick_gelu), described.activation
        report.notes = list(described.notes)
        same = [arch for arch in report.fits if _is_activation_of(arch, cfg.quick_gelu)]
        report.architecture = found.architecture or next(iter(same), report.architecture)
    except (AmbiguousModelError, ConfigError, CheckpointError) as error:
        report.loads, report.problem = False, str(error)
    return _with_configs(report, cfg, pixels)


def _with_configs(report: Report, cfg: ModelCfg | None, pixels: PreprocessCfg | None) -> Report:
    if cfg is not None:
        report.model_cfg, report.tokenizer = cfg.to_dict(), _tokenizer(cfg.text_cfg)
        report.tanh_gelu = _with_tanh(cfg)
    if pixels is not None:
        report.preprocess_cfg = asdict(pixels)
    return report


def _activation(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"


def _with_tanh(cfg: ModelCfg) -> list[str]:
    """The towers whose GELU is the tanh approximation; what is inside other libraries' towers is not told."""
    from oneclip.model.siglip_names import TrunkCfg, is_siglip

    vision, text, tanh = cfg.vision_cfg, cfg.text_cfg, {"approximate": "tanh"}
    trunk = TrunkCfg.of_cfg(vision) if is_siglip(vision) else None
    kinds = {
        "image": trunk.gelu == "tanh" if trunk else vision.act_kwargs == tanh and not vision.timm_model_name,
        "text": text.act_kwargs == tanh and not text.hf_model_name,
    }
    return [tower for tower, is_tanh in kinds.items() if is_tanh and (trunk or not cfg.quick_gelu)]


def _is_activation_of(arch: str, quick_gelu: bool) -> bool:
    from oneclip import zoo

    return zoo.architecture(arch).quick_gelu == quick_gelu


def _tokenizer(cfg: CLIPTextCfg) -> str:
    from oneclip.text.factory import BESIDE

    kind = cfg.hf_tokenizer_name or "CLIP's own"
    kind = "the one in its own folder" if kind == BESIDE else kind
    return f"{kind}, {cfg.context_length} tokens"


def _print(report: Report) -> None:
    from oneclip.cli.table_output import Column, print_table

    rows = [("name", report.name), ("format", _format(report))]
    if report.files:
        shown = report.files[0] + (f" and {len(report.files) - 1} more" if len(report.files) > 1 else "")
        rows.append(("file", f"{shown}, {_size(report.bytes)}"))
    rows.append(("architecture", _architecture(report)))
    if report.parameters is not None:
        rows.append(("parameters", f"{report.parameters:,} in {report.tensors:,} tensors"))
        rows.append(("numbers", ", ".join(f"{count:,} {kind}" for kind, count in report.dtypes.items())))
    rows.append(("activation", _activation_row(report)))
    rows.append(("preprocessing", _pixels(report.preprocess_cfg)))
    rows.append(("tokenizer", report.tokenizer or "unknown"))
    for key, value in list(report.metadata.items())[:SHOWN_METADATA]:
        rows.append((f"metadata {key}"[:SHOWN_LETTERS], _short(value)))
    if len(report.metadata) > SHOWN_METADATA:
        rows.append(("metadata", f"{len(report.metadata) - SHOWN_METADATA} more; --json has them"))
    rows += [("note", note) for note in report.notes]
    rows.append(("loads", "yes" if report.loads and not report.problem else report.problem or "no"))
    print_table([Column("", "cyan"), Column("")], rows)


def _activation_row(report: Report) -> str:
    if not report.activation:
        return "unknown"
    tanh = f", its tanh approximation for {' and '.join(report.tanh_gelu)}" if report.tanh_gelu else ""
    return f"{report.activation}{tanh} (by {report.activation_by})"


def _format(report: Report) -> str:
    text = report.format or "published weights"
    if report.part:
        text += f", its {report.part}"
    if report.other_parts:
        text += f" (it also holds {', '.join(report.other_parts)}; see them with --part)"
    return text


def _architecture(report: Report) -> str:
    others = [arch for arch in report.fits if arch != report.architecture]
    if report.architecture:
        return report.architecture + (f" (or, by its shapes, {', '.join(others[:4])})" if others else "")
    if report.nearest and report.nearest[1] > 0.5:
        return (
            f"not a published one; the nearest is {report.nearest[0]} "
            f"({100 * report.nearest[1]:.0f} % of its shapes are equal)"
        )
    return "not a published one"


def _pixels(cfg: dict[str, Any] | None) -> str:
    if cfg is None:
        return "unknown"
    size = cfg["size"]
    sides = str(size) if isinstance(size, int) else " x ".join(map(str, size))
    mean, std = (" ".join(f"{number:.4g}" for number in cfg[key]) for key in ("mean", "std"))
    return f"{sides} pixels, {cfg['resize_mode']}, {cfg['interpolation']}, mean {mean}, std {std}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN_LETTERS else text[: SHOWN_LETTERS - 1] + "…"
