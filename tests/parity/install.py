"""Fetch the published packages that ours are compared with, into `.parity/packages`.

They own the import names of our facades, so they get a folder of their own, without the dependencies that the tests'
environment has already: `python tests/parity/install.py`. Nothing is fetched again while the list below is unchanged.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".parity"
PACKAGES = FOLDER / "packages"
STAMP = FOLDER / "packages.txt"

REQUIREMENTS = (
    "open_clip_torch==3.3.0",
    "clip-anytorch==2.6.0",  # OpenAI's code as a wheel, which also takes captions shorter than the context
    "timm==1.0.31",
    "torchvision==0.28.0",
    "regex==2026.11.15",
    "tqdm==4.70.1",
    "pandas==3.1.1",  # these four: what the training scripts of open_clip_torch import
    "python-dateutil==4.0.0",
    "webdataset==0.2.86",  # as they ask for
    "braceexpand==0.1.7",
)


def installed() -> bool:
    """Whether the folder holds what is asked for."""
    return STAMP.is_file() and STAMP.read_text(encoding="utf-8").split() == list(REQUIREMENTS)


def main() -> None:
    if installed():
        return
    STAMP.unlink(missing_ok=True)
    shutil.rmtree(PACKAGES, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--target", str(PACKAGES), *REQUIREMENTS], check=True)
    STAMP.write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
