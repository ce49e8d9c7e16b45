"""Commands with an exported model where torch is not installed, against the arithmetic of NumPy."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny

pytest.importorskip("onnx", reason="needs the extra oneclip[export]")

from packaging.requirements import Requirement
from small_export import SmallExport, write_small_export

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".runtime" / "bin" / "python"
LABELS = ["a cat", "a dog", "a red square"]
COUNT = 90  # images, more than 4 for each dimension, from which on an index is rotated
LONG = 120  # seconds; what takes as long has failed

pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason="the environment without torch is missing: make .runtime/.installed"
)


class Case(NamedTuple):
    """An exported model, images, and what the commands printed."""

    model: SmallExport
    images: Path
    commands: dict[str, dict[str, Any]]
    out: Path

    def printed(self, name: str) -> str:
        """Return what a command printed, which must have succeeded."""
        done = self.commands[name]
        assert done["code"] == 0, done
        return str(done["out"])

    def vectors(self) -> tuple[list[str], np.ndarray]:
        """Return names and embeddings of all images."""
        files = sorted(self.images.iterdir())
        return [file.name for file in files], self.model.images(files)

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return the probabilities (N, 3) of the labels."""
        logits = np.exp(20.0 * vectors @ self.model.texts(LABELS).T)
        return logits / logits.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("without_torch")
    (images := folder / "images").mkdir()
    for number in range(COUNT):
        tiny.picture(number % (COUNT - 1)).save(images / f"{number:02}.png")  # the last is the first again
    model = write_small_export(folder / "exported")
    program = Path(__file__).with_name("commands_without_torch.py")
    (out := folder / "out").mkdir()
    run_python(program, model.folder, images, ",".join(LABELS), out)
    return Case(model, images, json.loads((out / "commands.json").read_text()), out)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ONECLIP_OFFLINE": "1"}


def run_python(*arguments: str | Path) -> None:
    done = subprocess.run(
        [PYTHON, *arguments], capture_output=True, text=True, check=False, env=environment(), timeout=LONG
    )
    assert done.returncode == 0, done.stderr


def test_torch_is_neither_installed_nor_imported(case: Case) -> None:
    assert case.commands["torch"]["code"] == 0
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        run_python("-c", "import torch")


def test_embed_writes_the_embeddings_of_the_model(case: Case) -> None:
    case.printed("embed")
    names, expected = case.vectors()
    with np.load(case.out / "images.npz") as stored:
        found = dict(zip((Path(name).name for name in stored["names"]), stored["vectors"], strict=True))
    np.testing.assert_allclose([found[name] for name in names], expected, atol=1e-5)


def test_classify_prints_the_probabilities_of_the_model(case: Case) -> None:
    (found,) = json.loads(case.printed("classify"))["images"]
    (expected,) = case.probabilities(case.model.images([case.images / "00.png"]))
    by_label = {one["label"]: one["probability"] for one in found["labels"]}
    np.testing.assert_allclose([by_label[label] for label in LABELS], expected, atol=1e-5)


def test_search_ranks_as_the_model_does(case: Case) -> None:
    found = json.loads(case.printed("search"))["results"]
    names, vectors = case.vectors()
    scores = (vectors @ case.model.texts(["a cat"]).T)[:, 0]
    by_name = dict(zip(names, scores, strict=True))
    best = sorted(scores, reverse=True)[: len(found)]
    np.testing.assert_allclose([by_name[Path(one["path"]).name] for one in found], best, atol=1e-5)
    np.testing.assert_allclose([one["score"] for one in found], best, atol=1e-4)


def test_an_index_is_rotated(case: Case) -> None:
    from oneclip.search.segments import Segment

    (segment,) = [Segment.open(path) for path in (case.out / "index").rglob("*.segment")]
    assert segment.rotation is not None
    gram = segment.rotation.T @ segment.rotation
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_an_image_finds_itself(case: Case) -> None:
    (found,) = json.loads(case.printed("search by image"))["results"]
    assert found["score"] == pytest.approx(1, abs=1e-4)


def test_duplicates_are_found(case: Case) -> None:
    assert "89.png" in case.printed("duplicates")


def test_sort_copies_each_image_to_its_label(case: Case) -> None:
    case.printed("sort")
    names, vectors = case.vectors()
    probabilities = case.probabilities(vectors)
    best = dict(zip(names, probabilities.argmax(axis=1), strict=True))
    margin = np.diff(np.sort(probabilities, axis=1)[:, -2:])[:, 0]
    sure = {name for name, far in zip(names, margin, strict=True) if far > 1e-3}
    found = {path.name: path.parent.name for path in (case.out / "sorted").rglob("*.png")}
    assert {name: found[name] for name in sure} == {name: LABELS[best[name]] for name in sure}
    assert list(csv.DictReader((case.out / "sorted" / "oneclip-sort.csv").open(newline="")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("explain", "exported model, which has no 'explain'"),
        ("evaluate", "needs PyTorch"),
        ("model in torch", "needs PyTorch"),
    ],
)
def test_what_needs_torch_is_refused_in_one_line(case: Case, name: str, message: str) -> None:
    done = case.commands[name]
    assert done["code"] == 1
    assert message in done["err"]
    assert "Traceback" not in done["err"]


@pytest.fixture(scope="module")
def address(case: Case) -> Iterator[str]:
    """Start `oneclip serve`; it ends with the module."""
    command = [PYTHON, "-m", "oneclip", "serve", "--model", str(case.model.folder), "--port", "0"]
    log = case.out / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment())
    try:
        until = time.monotonic() + LONG
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            if found := re.search(r"http://[\d.]+:\d+", log.read_text()):
                with (
                    suppress(urllib.error.URLError),
                    urllib.request.urlopen(f"{found[0]}/ready", timeout=LONG),
                ):
                    break
            time.sleep(0.05)
        yield found[0]
    finally:
        process.terminate()
        process.wait(LONG)


def test_serve_answers_with_the_embeddings_of_the_model(case: Case, address: str) -> None:
    request = urllib.request.Request(
        f"{address}/v1/embeddings",
        json.dumps({"input": [*LABELS, LABELS[0]], "model": "small"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=LONG) as answer:
        found = [one["embedding"] for one in json.loads(answer.read())["data"]]
    np.testing.assert_allclose(found, case.model.texts([*LABELS, LABELS[0]]), atol=1e-5)


def test_the_requirements_are_those_of_the_package_without_torch() -> None:
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {text for text in project["dependencies"] if not text.startswith("torch")}
    extras = project["optional-dependencies"]
    lines = (ROOT / "requirements-runtime.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == {
        *core,
        *extras["onnx"],
        *(text for text in extras["serve"] if not text.startswith("uvloop")),
    }


def test_without_torch_at_most_a_quarter_of_the_bytes_is_installed() -> None:
    here = {canonical(one.name): one for one in distributions()}
    wanted, packages = ["oneclip"], set()
    while wanted:
        if (name := canonical(wanted.pop())) in here and name not in packages:
            packages.add(name)
            required = map(Requirement, here[name].requires or ())
            wanted += [one.name for one in required if not one.marker or one.marker.evaluate({"extra": ""})]
    own = str(next((PYTHON.parents[1] / "lib").glob("python*/site-packages")))
    without = [one for one in distributions(path=[own]) if one.name not in ("pip", "setuptools")]
    assert sum(map(size, without)) <= sum(size(here[name]) for name in packages) / 4


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def size(package: Distribution) -> int:
    """Return the bytes of a package's files, without compiled modules."""
    paths = [Path(str(file.locate())) for file in package.files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file())
