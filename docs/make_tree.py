"""Write the list of the library's files into README.md, each with the first sentence of its docstring.

python docs/make_tree.py
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree: begin, written by docs/make_tree.py -->\n", "<!-- tree: end -->"


def described(path: Path) -> str:
    """The first sentence of a module's docstring, in one line, without the papers it cites."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r" \([^)]*\d{4}[^)]*\)", "", paragraph).split(". ")[0].rstrip(".")


def tree() -> str:
    """All modules of the three packages, as a block of text."""
    lines = []
    for package in ("oneclip", "clip", "open_clip"):
        for path in sorted((ROOT / "src" / package).rglob("*.py")):
            if text := described(path):
                lines.append((str(path.relative_to(ROOT / "src")), text))
    width = max(len(name) for name, _ in lines)
    return "```\n" + "".join(f"{name:{width}}  {text}\n" for name, text in lines) + "```\n"


def with_tree(readme: str) -> str:
    """The text of the README with the list brought up to date."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + tree() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tree(path.read_text(encoding="utf-8")), encoding="utf-8")
