"""Write the table of routes in docs/serve.md, from the routes of the server.

python docs/make_routes.py
"""

from pathlib import Path

from oneclip.serve.app import create_app
from oneclip.serve.request_limits import needs_key
from oneclip.serve.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- routes: begin, written by docs/make_routes.py -->\n"
END = "<!-- routes: end -->"


def table() -> str:
    """Make a table of all routes, with the types of their bodies and whether they need a key."""
    lines = ["| route | what it does | body | key |\n|---|---|---|---|\n"]
    for path, operations in create_app(ServeSettings()).openapi()["paths"].items():
        for method, operation in operations.items():
            types = ", ".join(f"`{name}`" for name in operation.get("requestBody", {}).get("content", ()))
            key = "yes" if needs_key(path) else ""
            lines.append(f"| `{method.upper()} {path}` | {operation['summary']} | {types} | {key} |\n")
    return "".join(lines)


def with_table(page: str) -> str:
    """Return the text of the page with a current table."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    path = ROOT / "docs" / "serve.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {path}")
