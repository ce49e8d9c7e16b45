"""Publish a trained run as the weights in the wheel: `python -m recipes.pocket.publish --run RUN --data DATA`.

Writes `src/oneclip/zoo/pocket.safetensors` (token table in 8 bits, all else in 16) and `results.json` beside this
file: every held-out split, before quantizing and after, beside what the first version's file scores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import oneclip
from oneclip.checkpoint import load, load_into, read, save_quantized
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.model import build_model
from oneclip.text import CLIPTokenizer
from recipes.pocket.evaluate import evaluate_splits
from recipes.pocket.evaluation_sets import ALL_SETS
from recipes.pocket.train import MODEL

WEIGHTS = Path(oneclip.__file__).with_name("zoo") / "pocket.safetensors"
CARD = Path(__file__).with_name("MODEL_CARD.md")
RESULTS = Path(__file__).with_name("results.json")
PREPROCESS = PreprocessCfg(
    size=64, resize_mode="longest", fill_color=(255, 255, 255), background=(255, 255, 255)
)  # whole images on white, as in training
BEGIN, END = "<!-- results: begin, written by recipes.pocket.publish -->", "<!-- results: end -->"
LIMIT = 32_000_000  # bytes
COLUMNS = ("v1", "fp32", "shipped")


def publish(run: Path, data: Path) -> dict[str, dict[str, float]]:
    """Quantize, write, read again, and evaluate before and after."""
    cfg = ModelCfg.from_dict(json.loads(MODEL.read_text(encoding="utf-8")))
    model = build_model(cfg)
    trained = run / "pocket-fp32.safetensors"
    load_into(model, read(trained).state_dict, source=str(trained))
    tokenizer = CLIPTokenizer()
    results = {"fp32": evaluate_splits(model.eval(), tokenizer, data, ALL_SETS)}
    save_quantized(WEIGHTS, model.state_dict(), cfg, PREPROCESS)
    if WEIGHTS.stat().st_size > LIMIT:
        raise SystemExit(f"{WEIGHTS} has {WEIGHTS.stat().st_size:,} bytes; the limit is {LIMIT:,}")
    results["shipped"] = evaluate_splits(load("pocket", device="cpu").model, tokenizer, data, ALL_SETS)
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """Format the results as the table of the model card."""
    lines = ["| set | measure | first version | now, fp32 | now, shipped |", "|---|---|---:|---:|---:|"]
    for name in results["fp32"]:
        row = " | ".join(f"{results[column][name]:.3f}" for column in COLUMNS)
        lines.append(f"| {' | '.join(name.split('/'))} | {row} |")
    return "\n".join(lines)


def write_card(results: dict[str, dict[str, float]]) -> None:
    """Replace the table between the markers of the model card."""
    start, rest = CARD.read_text(encoding="utf-8").split(BEGIN)
    CARD.write_text(f"{start}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder that recipes.pocket.train wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes.pocket.build")
    args = parser.parse_args()
    first = json.loads(RESULTS.read_text(encoding="utf-8"))["v1"]
    results = {"v1": first, **publish(args.run, args.data)}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_card(results)
    print(table(results))
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
