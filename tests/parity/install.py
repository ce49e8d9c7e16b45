"""Download the published packages for the parity tests into folders of `.parity`.

They own the import names of our facades, so they get a folder of their own, without the dependencies that the tests'
environment has already: `python tests/parity/install.py`. Nothing is fetched again while the list below is unchanged.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".parity"
PACKAGES = FOLDER / "packages"
TRANSFORMERS4 = FOLDER / "transformers4"
CLIP_BENCHMARK = FOLDER / "clip_benchmark"
ADAPTED = FOLDER / "adapted"
PUBLISHED_TESTS = FOLDER / "published_tests"
COREML = FOLDER / "coreml"

REQUIREMENTS = (
    "open_clip_torch==3.3.0",
    "clip-anytorch==2.6.0",  # OpenAI's code as a wheel; it also accepts texts shorter than the context
    "timm==1.0.31",
    "torchvision==0.28.0",
    "regex==2026.11.15",
    "tqdm==4.70.1",
    "pandas==3.1.1",  # this and the next three are imported by the training scripts of open_clip_torch
    "python-dateutil==4.0.0",
    "webdataset==0.2.86",  # as required by the scripts
    "braceexpand==0.1.7",
)


# captioning of open_clip_torch uses a part of transformers that was last exported by 4.56
REQUIREMENTS_OF_CAPTIONING = (
    "transformers==4.56.2",
    "tokenizers==0.22.2",
    "huggingface_hub==0.36.2",
    "requests==2.34.2",
    "urllib3==2.8.0",
    "idna==3.20",
    "certifi==2026.10.18",
    "charset-normalizer==3.5.2",
)

# it imports packages of the first list, and scikit-learn of the tests' environment
REQUIREMENTS_OF_EVALUATION = ("clip-benchmark==1.6.2",)

# for the adapters; polars is left out, which MTEB imports for its tables of results alone and weighs 150 MB
REQUIREMENTS_OF_ADAPTERS = (
    "sentence-transformers==6.2.0",
    "mteb==2.26.24",
    "datasets==5.2.0",
    "dill==0.4.1",
    "multiprocess==0.70.19",
    "xxhash==4.1.0",
    "pytrec-eval-terrier==0.5.11",
)

# converts towers for Core ML; it runs none outside of macOS
REQUIREMENTS_OF_COREML = (
    "coremltools==9.0",
    "attrs==26.1.0",
    "cattrs==26.2.1",
    "pyaml==26.7.0",
    "tqdm==4.70.1",
)

# only the source distribution contains the tests
SOURCE = (
    "open_clip_torch==3.3.0",
    "--hash=sha256:904b1a9f909df8281bb3de60ab95491cd2994a509177ea4f9d6292a84fe24d6d",
)

CONTENTS = {
    PACKAGES: REQUIREMENTS,
    TRANSFORMERS4: REQUIREMENTS_OF_CAPTIONING,
    CLIP_BENCHMARK: REQUIREMENTS_OF_EVALUATION,
    ADAPTED: REQUIREMENTS_OF_ADAPTERS,
    COREML: REQUIREMENTS_OF_COREML,
    PUBLISHED_TESTS: SOURCE,
}


def installed(folder: Path = PACKAGES) -> bool:
    """Return whether a folder contains the requested packages."""
    stamp = folder.with_suffix(".txt")
    return stamp.is_file() and stamp.read_text(encoding="utf-8").split() == list(CONTENTS[folder])


def main() -> None:
    for folder, requirements in CONTENTS.items():
        if installed(folder):
            continue
        stamp = folder.with_suffix(".txt")
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if folder == PUBLISHED_TESTS:
            unpack_tests(folder)
        else:
            pip("install", "--no-compile", "--target", str(folder), *requirements)
        stamp.write_text("\n".join(requirements) + "\n", encoding="utf-8")


def unpack_tests(folder: Path) -> None:
    """Download the source distribution and extract its tests."""
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place, "requirements.txt")
        listed.write_text(" ".join(SOURCE))
        pip("download", "--no-binary", "open_clip_torch", "--dest", place, "--requirement", str(listed))
        with tarfile.open(next(Path(place).glob("*.tar.gz"))) as archive:
            tests = [member for member in archive if "/tests/" in member.name]
            archive.extractall(place, tests, filter="data")
        shutil.copytree(next(Path(place).glob("*/tests")), folder)


def pip(command: str, *arguments: str) -> None:
    options = ("--disable-pip-version-check", command, "--quiet", "--no-deps")
    subprocess.run([sys.executable, "-m", "pip", *options, *arguments], check=True)


if __name__ == "__main__":
    main()
