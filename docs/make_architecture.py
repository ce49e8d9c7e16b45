"""Write the folders and the import rows into docs/architecture.md.

python docs/make_architecture.py
"""

import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"


def first_line(path: Path) -> str:
    """Return the first paragraph of a module's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def folders() -> str:
    """Make a table of all packages and of the top-level modules, with their first lines."""
    lines = ["| folder | what it is for |\n|---|---|\n"]
    for path in sorted(SRC.rglob("__init__.py"), key=lambda path: path.parent.parts):
        name = path.parent.relative_to(SRC)
        lines.append(f"| `{name}/` | {first_line(path)} |\n")
        if str(name) == "oneclip":
            for module in sorted(path.parent.glob("[a-z]*.py")):
                lines.append(f"| `{name}/{module.name}` | {first_line(module)} |\n")
    return "".join(lines)


def rows() -> str:
    """Make a table of the import rows in tests/test_layers.py, limited to existing modules."""
    lines = ["| row | folders and modules |\n|---|---|\n"]
    for number, names in enumerate(runpy.run_path(str(ROOT / "tests" / "test_layers.py"))["ROWS"]):
        there = [
            name
            for name in names
            if any(
                base.exists() for base in (SRC / "oneclip" / name, SRC / "oneclip" / f"{name}.py", SRC / name)
            )
        ]
        if there:
            lines.append(f"| {number} | {', '.join(f'`{name}`' for name in there)} |\n")
    return "".join(lines)


def with_tables(page: str) -> str:
    """Return the page with current tables."""
    for name, table in (("folders", folders()), ("rows", rows())):
        begin = f"<!-- {name}: begin, written by docs/make_architecture.py -->\n"
        before, rest = page.split(begin)
        page = before + begin + table + f"<!-- {name}: end -->" + rest.split(f"<!-- {name}: end -->", 1)[1]
    return page


if __name__ == "__main__":
    path = ROOT / "docs" / "architecture.md"
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {path}")
