"""Convert towers to Core ML packages with coremltools.

Core ML runs on Apple's systems only: the packages are converted and their structure is checked, but they are not run.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._decomp import get_decompositions

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError, MissingExtraError
from oneclip.export.request import ExportRequest, Towers
from oneclip.export.tokenizer_json import write_json, write_tokenizer_json
from oneclip.export.towers import TowerToExport, exported_tower
from oneclip.runtime.exported_model import Side

FILES: dict[Side, str] = {"image": "vision_model", "text": "text_model"}
SUFFIXES = {"fp32": "", "fp16": "_fp16"}
IN_FP32 = ("layer_norm", "batch_norm", "softmax", "reduce_l2_norm", "maximum", "real_div")
"""Operators that stay in fp32 in a package with fp16: norms and softmax."""
LOGICAL = {
    torch.ops.aten.__and__.Tensor: torch.ops.aten.logical_and.default,
    torch.ops.aten.bitwise_and.Tensor: torch.ops.aten.logical_and.default,
    torch.ops.aten.bitwise_not.default: torch.ops.aten.logical_not.default,
}
"""Operators on masks, to those that coremltools has for them."""
DESCRIPTION = "coreml.json"


def write_coreml(folder: Path, towers: Towers, *, encoder: Encoder, request: ExportRequest) -> Towers:
    """Write a package of each tower for one image of the model's size, or one text of its full length.

    Args:
        folder: to write to.
        towers: none.
        encoder: the model in torch.
        request: how it is exported.

    Returns:
        No towers, because none can run here.

    Raises:
        ConfigError: for int8, for bytes as input, or an operator that cannot be converted.
        MissingExtraError: without coremltools.
    """
    unknown = [one for one in request.precisions if one not in SUFFIXES]
    if unknown:
        raise ConfigError(f"Core ML is exported in {' and '.join(SUFFIXES)}, not in {', '.join(unknown)}")
    if request.uint8_input:
        raise ConfigError("Core ML packages take normalized images; export without --uint8-input")
    packages = []
    for side, name in FILES.items():
        tower = exported_tower(encoder, side)
        program = export_program(tower)
        for precision in request.precisions:
            path = folder / f"{name}{SUFFIXES[precision]}.mlpackage"
            convert(program, tower, path, precision)
            check_structure(path, tower, encoder.embed_dim)
            packages.append(path.name)
    with suppress(ConfigError):  # an application needs another tokenizer then
        write_tokenizer_json(encoder, folder, "Core ML")
    description = {
        "name": encoder.name,
        "packages": packages,
        "checked": "converted, and inputs and outputs checked; not run, because Core ML needs a Mac or an iPhone",
        "preprocess": encoder.preprocess_cfg.to_dict(),
        "image_size": list(encoder.image_size),
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "weights": encoder.weights_digest(),
    }
    write_json(folder / DESCRIPTION, description)
    return {}


def export_program(tower: TowerToExport) -> Any:
    """Export a tower for a batch of one, in the operators that coremltools reads.

    Raises:
        ConfigError: if it cannot be exported.
    """
    example = tower.example[:1]
    try:
        with _quiet():
            others = get_decompositions([torch.ops.aten.new_ones, torch.ops.aten.new_zeros])
            program = torch.export.export(tower.module.eval(), (example,)).run_decompositions(others)
    except Exception as error:  # of many types, without a base class
        raise ConfigError(
            f"the tower {type(tower.module).__name__} cannot be exported for Core ML: {error}"
        ) from error
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in LOGICAL and node.meta["val"].dtype == torch.bool:
            node.target = LOGICAL[node.target]
    return program


def convert(program: Any, tower: TowerToExport, path: Path, precision: str) -> None:
    """Convert an exported program to an ML program and save it.

    Raises:
        ConfigError: for an operator that coremltools does not have; the message names it.
    """
    with _quiet():
        ct = require_coremltools()
        compute = ct.precision.FLOAT32
        if precision == "fp16":
            compute = ct.transform.FP16ComputePrecision(op_selector=lambda op: op.op_type not in IN_FP32)
        try:
            model = ct.convert(
                program,
                outputs=[ct.TensorType(name=tower.output_name, dtype=np.float32)],
                convert_to="mlprogram",
                compute_precision=compute,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
        except Exception as error:  # of many types, without a base class
            raise ConfigError(
                f"the tower {type(tower.module).__name__} cannot be converted to Core ML: {str(error)[:300]}"
            ) from error
        model.save(str(path))


def check_structure(path: Path, tower: TowerToExport, embed_dim: int) -> None:
    """Read a package again and check the names and shapes of its input and output.

    Raises:
        ConfigError: if they are not the tower's.
    """
    with _quiet():
        spec = require_coremltools().models.MLModel(str(path), skip_model_load=True).get_spec()
    found = {
        one.name: tuple(one.type.multiArrayType.shape)
        for one in (*spec.description.input, *spec.description.output)
    }
    expected = {tower.input_name: (1, *tower.example.shape[1:]), tower.output_name: (1, embed_dim)}
    if found != expected:
        raise ConfigError(f"coremltools wrote {path.name} with {found}; expected {expected}")


def require_coremltools() -> Any:
    """Import coremltools.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return import_module("coremltools")
    except ImportError as error:
        raise MissingExtraError("Exporting for Core ML", "coreml") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence coremltools, which warns of newer versions of torch and that it cannot run models here."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # its progress bars
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
