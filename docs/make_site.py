"""Build the documentation site in build/site: the pages of docs/, and an API reference from the docstrings.

python docs/make_site.py    (needs oneclip[docs]; `make docs` installs it)
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "pages"
PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
# what users import, in the order in which they meet it
REFERENCE = (
    *(
        "oneclip",
        "oneclip.encoder",
        "oneclip.errors",
        "oneclip.config",
        "oneclip.zoo",
        "oneclip.image",
        "oneclip.text",
    ),
    *("oneclip.model", "oneclip.checkpoint", "oneclip.engine", "oneclip.embed", "oneclip.search"),
    *("oneclip.evaluate", "oneclip.explain", "oneclip.adapters"),
    *("oneclip.losses", "oneclip.train", "oneclip.train.data", "oneclip.train.finetune"),
)


def site_links(text: str, folder: Path) -> str:
    """Convert links that leave docs/ to links within the site, or to plain text if it has no such page."""

    def changed(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        path = (folder / target.partition("#")[0]).resolve()
        if path.parent == ROOT / "docs" or path.name in PROJECT:
            return f"[{label}]({path.name}{target[len(target.partition('#')[0]) :]})"
        return label if path == ROOT / "README.md" else f"`{path.relative_to(ROOT)}`"

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", changed, text)


def write_pages() -> None:
    """Copy the pages, and write the page of the API reference."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in PROJECT)]:
        text = page.read_text(encoding="utf-8")
        (PAGES / page.name).write_text(site_links(text, page.parent), encoding="utf-8")
    reference = "".join(f"\n::: {module}\n" for module in REFERENCE)
    (PAGES / "api.md").write_text(f"# API reference\n{reference}", encoding="utf-8")


if __name__ == "__main__":
    write_pages()
    sys.exit(
        subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=ROOT, check=False
        ).returncode
    )
