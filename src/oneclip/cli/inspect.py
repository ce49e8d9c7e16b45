"""`oneclip inspect`: show what a checkpoint contains, without running it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError

if TYPE_CHECKING:
    from oneclip import zoo
    from oneclip.checkpoint import CheckpointEvidence
    from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg

MAX_METADATA_ROWS = 12  # in the table; --json has all
MAX_CELL_CHARACTERS = 80


@dataclass
class InspectReport:
    """Description of a checkpoint, in the fields of the JSON output.

    Attributes:
        name: as given.
        files: of the checkpoint; empty for published weights that are not on this machine.
        bytes: size of the files.
        format: kind of checkpoint.
        part, other_parts: the dict of a training checkpoint that is described, and the other dicts of weights in it.
        tensors, parameters: their number. Statistics of batch norms are not parameters.
        dtypes: number of values of each type in the files.
        architecture: the named or published one, or the first whose shapes fit.
        fits: published architectures with the same shapes.
        nearest: the architecture with the most tensors of the same shape, and their share.
        activation: "QuickGELU" or "GELU"; None if unknown.
        activation_by: the source of this information.
        tanh_gelu: which towers, "image" and "text", use the tanh approximation of GELU.
        model_cfg: the fields that differ from the defaults; None if unknown.
        preprocess_cfg: all fields; None if unknown.
        tokenizer: its name and the context length.
        metadata: other metadata of the file.
        notes: assumptions about the file, one sentence each.
        loads: if `oneclip.load` can load it by this name.
        problem: the error otherwise.
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
        typer.Argument(metavar="MODEL", help="File, folder, or any other name that can be loaded."),
    ] = None,
    model_option: options.ModelAliasOption = None,
    part: options.PartOption = None,
    prefix: options.PrefixOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show what a checkpoint contains, without running it.

    Shows format, architecture, activation, preprocessing and tokenizer. No code in a file is run, and no weights are
    read. Published weights that are not on this machine are described, not downloaded.

    \b
    Examples:
      oneclip inspect pocket
      oneclip inspect run/epoch_9.pt --json
    """
    report = _make_report(
        options.require_one_model(model, model_option, "oneclip inspect MODEL"), part, prefix
    )
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        _print_report(report)


def _make_report(name: str, part: str | None, prefix: str | None) -> InspectReport:
    from oneclip import hub, zoo

    source = zoo.resolve(name)
    from oneclip import checkpoint  # imports torch, which takes seconds

    if source.kind == "pretrained" and source.pretrained and not hub.cached_weights(source.pretrained):
        return _describe_undownloaded(name, source)
    found = checkpoint.gather_evidence(source, part=part, prefix=prefix, values=False)
    return _describe_examined(name, found)


def _describe_undownloaded(name: str, source: zoo.ModelSource) -> InspectReport:
    """Describe published weights that are not on this machine."""
    from oneclip import zoo

    arch, weights = source.architecture, source.pretrained
    assert arch is not None
    assert weights is not None
    cfg = zoo.architecture(arch)
    if weights.quick_gelu is not None:
        cfg.quick_gelu = weights.quick_gelu
    report = InspectReport(name, architecture=arch, activation=_activation(cfg.quick_gelu))
    report.activation_by = f"the published settings of {arch}:{weights.tag}"
    report.problem = f"not on this machine; `oneclip pull {name}` downloads it"
    return _with_configs(report, cfg, weights.preprocess_cfg(cfg.vision_cfg.image_size))


def _describe_examined(name: str, found: CheckpointEvidence) -> InspectReport:
    from oneclip import checkpoint
    from oneclip.checkpoint.resolve import match_architecture

    stored = found.checkpoint
    report = InspectReport(name, files=[str(path) for path in stored.files], format=found.format)
    report.bytes = sum(path.stat().st_size for path in stored.files)
    report.part, report.other_parts = stored.part, list(stored.other_parts)
    report.tensors, report.parameters = (
        len(stored.state_dict),
        match_architecture.count_parameters(stored.state_dict),
    )
    report.dtypes = stored.stored_dtypes
    report.fits, report.nearest = (
        match_architecture.exact_matches(stored.state_dict),
        match_architecture.nearest_match(stored.state_dict),
    )
    report.architecture = found.architecture or next(iter(report.fits), None)
    report.metadata = {key: stored.metadata[key] for key in stored.metadata if not key.endswith("_cfg")}
    if found.activation:
        report.activation = _activation(found.activation[0].quick_gelu)
        report.activation_by = found.activation[0].source
    cfg, pixels = found.cfg, found.preprocess_cfg
    try:
        described = checkpoint.resolve_evidence(found)
        cfg, pixels = described.cfg, described.preprocess_cfg
        report.activation, report.activation_by = _activation(cfg.quick_gelu), described.activation_source
        report.notes = list(described.notes)
        same = [arch for arch in report.fits if _is_activation_of(arch, cfg.quick_gelu)]
        report.architecture = found.architecture or next(iter(same), report.architecture)
    except (AmbiguousModelError, ConfigError, CheckpointError) as error:
        report.loads, report.problem = False, str(error)
    return _with_configs(report, cfg, pixels)


def _with_configs(report: InspectReport, cfg: ModelCfg | None, pixels: PreprocessCfg | None) -> InspectReport:
    from oneclip.model.build import tanh_gelu_towers

    if cfg is not None:
        report.model_cfg, report.tokenizer = cfg.to_dict(), _tokenizer(cfg.text_cfg)
        report.tanh_gelu = tanh_gelu_towers(cfg)
    if pixels is not None:
        report.preprocess_cfg = asdict(pixels)
    return report


def _activation(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"


def _is_activation_of(arch: str, quick_gelu: bool) -> bool:
    from oneclip import zoo

    return zoo.architecture(arch).quick_gelu == quick_gelu


def _tokenizer(cfg: CLIPTextCfg) -> str:
    from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

    kind = cfg.hf_tokenizer_name or "CLIP's own"
    kind = "in the folder of the model" if kind == TOKENIZER_IN_MODEL_FOLDER else kind
    return f"{kind}, {cfg.context_length} tokens"


def _print_report(report: InspectReport) -> None:
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
    for key, value in list(report.metadata.items())[:MAX_METADATA_ROWS]:
        rows.append((f"metadata {key}"[:MAX_CELL_CHARACTERS], _short(value)))
    if len(report.metadata) > MAX_METADATA_ROWS:
        rows.append(("metadata", f"{len(report.metadata) - MAX_METADATA_ROWS} more; --json lists them"))
    rows += [("note", note) for note in report.notes]
    rows.append(("loads", "yes" if report.loads and not report.problem else report.problem or "no"))
    print_table([Column("", "cyan"), Column("")], rows)


def _activation_row(report: InspectReport) -> str:
    if not report.activation:
        return "unknown"
    tanh = f", its tanh approximation for {' and '.join(report.tanh_gelu)}" if report.tanh_gelu else ""
    return f"{report.activation}{tanh} (by {report.activation_by})"


def _format(report: InspectReport) -> str:
    text = report.format or "published weights"
    if report.part:
        text += f", its {report.part}"
    if report.other_parts:
        text += f" (it also contains {', '.join(report.other_parts)}; select one with --part)"
    return text


def _architecture(report: InspectReport) -> str:
    others = [arch for arch in report.fits if arch != report.architecture]
    if report.architecture:
        return report.architecture + (
            f" (or, with the same shapes, {', '.join(others[:4])})" if others else ""
        )
    if report.nearest and report.nearest[1] > 0.5:
        return (
            f"not a published one; the closest is {report.nearest[0]} "
            f"({100 * report.nearest[1]:.0f} % of the shapes are equal)"
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
    return text if len(text) <= MAX_CELL_CHARACTERS else text[: MAX_CELL_CHARACTERS - 1] + "…"
