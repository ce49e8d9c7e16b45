"""Make golden_tokens.json: texts with their ids and decoded texts from the published tokenizers.

    python tests/text/make_golden_tokens.py [FOLDER with open_clip_torch 3.3.0, clip-anytorch 2.6.0 and regex]

The texts come from tests/parity/cases_tokenizer.py. Only texts of Unicode 3.2 characters and emoji are kept, because
lower case and normalization of other characters depend on the Python version.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = HERE.parents[1] / ".parity" / "packages"
GOLDEN = HERE / "golden_tokens.json"


def load(path: Path) -> Any:
    """Load a file as a module without its package."""
    spec = importlib.util.spec_from_file_location("published", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_stable(text: str) -> bool:
    """Report whether all versions of Python treat each character equally."""
    return all(unicodedata.ucd_3_2_0.category(c) != "Cn" or "\U0001f000" <= c <= "\U0001faff" for c in text)


def main() -> None:
    packages = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGES
    sys.path.insert(0, str(packages))
    cases = load(HERE.parent / "parity" / "cases_tokenizer.py")
    simple_tokenizer = load(packages / "open_clip" / "tokenizer.py").SimpleTokenizer
    tokenizers = {
        "lower": (simple_tokenizer(), 400),
        "whitespace": (simple_tokenizer(clean="whitespace"), 80),
        "canonicalize": (simple_tokenizer(clean="canonicalize"), 80),
        "openai": (load(packages / "clip" / "simple_tokenizer.py").SimpleTokenizer(), 80),
    }
    golden = {}
    for seed, (name, (tokenizer, count)) in enumerate(tokenizers.items()):
        texts = [text for text in cases.texts(2 * count, seed) if is_stable(text) and len(text) <= 120][
            :count
        ]
        golden[name] = [list(outcome) for outcome in cases.outcomes(tokenizer, texts)]
    lines = [
        f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in rows) + "\n]"
        for name, rows in golden.items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")
    print({name: len(rows) for name, rows in golden.items()}, GOLDEN.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
