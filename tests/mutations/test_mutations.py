"""Changed and forged files of every format give one of our errors or a result: no crash, no hang, little memory.

A program reads them; `python tests/mutations/mutation_run.py --full --hostile` tries 800 changes of each format,
and all forged files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import oneclip

pytest.importorskip("pyarrow")
pytest.importorskip("transformers")

import mutation_run
from sandbox import Outcome

COUNT = 2  # changes of each format in this test
STEP = 3  # every third forged file
FEWEST_FORMS, FEWEST_FORGED = 31, 240


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    program = [sys.executable, str(Path(mutation_run.__file__)), f"--hostile={STEP}", "--count", str(COUNT)]
    ours = str(Path(oneclip.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([ours, os.environ.get("PYTHONPATH", "")])}
    folder = tmp_path_factory.mktemp("mutations")
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def test_every_file_ends_in_an_error_of_ours_or_a_result(
    outcomes: list[Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    largest = max(outcomes, key=lambda outcome: outcome.memory)
    with capsys.disabled():
        print(
            f"\n{len(outcomes)} files; the slowest took {slowest.seconds:.1f} s of the processor ({slowest.name}), "
            f"the largest {largest.memory / 1e6:.0f} MB ({largest.name})"
        )
    assert [(outcome.name, outcome.fault) for outcome in outcomes if outcome.fault] == []


def test_all_forms_are_tried_and_sound_files_are_read(outcomes: list[Outcome]) -> None:
    forms = mutation_run.formats()
    sound = {outcome.name: outcome.message for outcome in outcomes if outcome.name.endswith(" unchanged")}
    assert sound == {f"{name} unchanged": "" for name in forms}
    assert len(forms) >= FEWEST_FORMS
    for name in forms:
        assert sum(outcome.name.startswith(f"{name} ") for outcome in outcomes) >= COUNT + 1


def test_a_forged_file_is_a_checkpoint_error(outcomes: list[Outcome]) -> None:
    loaded = [outcome for outcome in outcomes if outcome.name.startswith("load ")]
    inspected = [outcome for outcome in outcomes if outcome.name.startswith("inspect ")]
    assert len({outcome.name for outcome in loaded}) == len(loaded) == len(inspected) >= FEWEST_FORGED
    assert [outcome.name for outcome in loaded if "CheckpointError" not in outcome.kinds] == []
    # inspecting does not read the values, so it may not find the error
    assert [
        outcome.name for outcome in inspected if outcome.kinds and "CheckpointError" not in outcome.kinds
    ] == []
