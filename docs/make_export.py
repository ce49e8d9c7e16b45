"""Measure exports of a small tower of every family, and write the table in docs/export.md.

python docs/make_export.py [RESULTS.json]   # minutes; families that the file has are not measured again
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PAGE = ROOT / "docs" / "export.md"
BEGIN, END = "<!-- families: begin -->\n", "<!-- families: end -->"
COLUMNS = {
    "onnx fp32": "ONNX fp32, relative error",
    "openvino fp32": "OpenVINO fp32, relative error",
    "onnx fp16": "ONNX fp16, cosine",
    "onnx int8": "ONNX int8, cosine",
}


def measure(family: str) -> dict[str, float]:
    """Export a tower in every way, and compare it with torch: greatest error in fp32, else the median cosine."""
    import torch

    from oneclip.export.folder import describe_tower
    from oneclip.export.fp16 import write_fp16
    from oneclip.export.int8 import WEIGHTS, quantize
    from oneclip.export.onnx_export import write_onnx
    from oneclip.export.openvino_export import write_openvino
    from oneclip.runtime.sessions import open_session
    from tests.export import export_families

    found = {}
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = Path(temporary)
        tower, inputs, longest = export_families.tower_and_inputs(family, folder)
        expected = np.concatenate([tower(one).numpy() for one in inputs])
        batches = [{"x": one.numpy()} for one in inputs]

        def compare(name: str, runtime: str, file: str) -> None:
            session = open_session(runtime, folder / file, "y", "cpu")
            actual = np.concatenate([session.run(one) for one in batches])
            if "fp32" in name:
                found[name] = float(np.linalg.norm(actual - expected, axis=1).max())
            else:
                found[name] = float(np.median((actual * expected).sum(1) / np.linalg.norm(actual, axis=1)))

        fp32 = folder / "x.onnx"
        write_onnx(tower, inputs[1], fp32, input_name="x", output_name="y", longest=longest)
        compare("onnx fp32", "onnx", "x.onnx")
        write_fp16(fp32, folder / "x_fp16.onnx")
        compare("onnx fp16", "onnx", "x_fp16.onnx")
        weight_type, reduce_range = WEIGHTS[-1]
        quantize(fp32, folder / "x_int8.onnx", batches, weight_type=weight_type, reduce_range=reduce_range)
        compare("onnx int8", "onnx", "x_int8.onnx")
        described = {"image": {"fp32": describe_tower(folder, "onnx", "x.onnx", "x", "y", ["x.onnx"])}}
        write_openvino(folder, described)
        compare("openvino fp32", "openvino", "x.xml")
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of all measured families."""
    lines = [f"| tower | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for family, found in results.items():
        cells = []
        for key in COLUMNS:
            value = found.get(key)
            is_number = isinstance(value, float)
            cells.append(
                f"{value:.0e}" if is_number and "fp32" in key else f"{value:.5f}" if is_number else "–"
            )
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(path: Path | None, only: list[str]) -> None:
    """Measure the families that are missing in the results, and write the table."""
    from torchvision_stub import declare_operators

    declare_operators()  # timm and transformers import torchvision
    from tests.export.export_families import FAMILIES

    results = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    for family in only or FAMILIES:
        if family not in results:
            try:
                results[family] = measure(family)
            except Exception as error:
                print(f"{family}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            print(family, results[family], flush=True)
            if path is not None:
                path.write_text(json.dumps(results, indent=1) + "\n")
    if not only:
        ordered = {family: results[family] for family in FAMILIES if family in results}
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        PAGE.write_text(before + BEGIN + table(ordered) + END + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, sys.argv[2:])
