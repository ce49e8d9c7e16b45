"""Import rows: a module imports only from rows above its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

ROWS = (
    ("_version", "installation"),
    ("errors",),
    ("config", "hardware", "html", "progress"),
    ("hub", "zoo"),
    ("image", "text", "model", "losses"),
    ("checkpoint", "engine"),
    ("explain", "encoding"),
    ("encoder", "runtime"),
    ("load_model",),
    ("embed",),
    ("evaluate",),
    ("search", "train", "adapters", "export"),
    ("serve",),
    ("cli",),
    ("clip", "open_clip"),
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
ENTRY_POINTS = {"__init__", "__main__"}  # they re-export names; nothing imports them


def part_of(module: str) -> str | None:
    """Return the part of a module: `image` for `oneclip.image.decode`, `clip` for `clip.model`, None for others."""
    first, _, rest = module.partition(".")
    if first == "oneclip":
        return rest.split(".")[0] or None
    return first if first in ("clip", "open_clip") else None


def imports(path: Path) -> set[str]:
    """Return all parts of ours that a file imports, anywhere in it."""
    found = set()
    package = path.relative_to(SRC).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) + "." if node.level else ""
            modules = [base + (node.module or "")]
            if modules == ["oneclip"]:
                modules = [f"oneclip.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {part for module in modules if (part := part_of(module.strip(".")))}
    return found


FILES = sorted(path for path in SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_up(path: Path) -> None:
    parts = path.relative_to(SRC).with_suffix("").parts
    own = parts[1] if parts[0] == "oneclip" else parts[0]
    if own in ENTRY_POINTS or path.stem == "__main__":
        return
    assert own in ROW, f"{own} stands in no row: add it to ROWS here"
    for used in imports(path) - {own}:
        assert ROW[used] < ROW[own], f"{own} (row {ROW[own]}) imports {used} (row {ROW[used]})"


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises
import oneclip.config, oneclip.hub, oneclip.text.labels, oneclip.zoo
from oneclip.image import FastPreprocess, Preprocess
from oneclip.image.prefetch import prefetch_images
from oneclip.text import CLIPTokenizer

((pixels,),) = prefetch_images([sys.argv[1]], Preprocess().array, 4)
print(pixels.shape, FastPreprocess(Preprocess().cfg).cfg.size, CLIPTokenizer(7).token_ids(["a cat"]).tolist())
"""


def test_images_are_preprocessed_and_texts_tokenized_without_torch() -> None:
    image = SRC.parent / "examples" / "images" / "cat.png"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(3, 224, 224) 224 [[49406, 320, 2368, 49407, 0, 0, 0]]\n"
