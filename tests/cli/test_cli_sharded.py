"""`oneclip convert` and `oneclip inspect` on a sharded checkpoint of several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commandline import Run

from oneclip.checkpoint import read

dcp = pytest.importorskip("torch.distributed.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # as it should be


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    found = read(model)
    path = tmp_path / "step_3"
    dcp.save({"state_dict": found.state_dict}, checkpoint_id=path, no_dist=True)
    (path / "training.json").write_text(json.dumps({"step": 3, "description": found.metadata}))
    return path


def test_convert_writes_one_file(run: Run, folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    assert run("convert", folder, out, "--to", "safetensors").code == 0
    found, expected = read(out).state_dict, read(model).state_dict
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_inspect_describes_the_checkpoint(run: Run, folder: Path) -> None:
    report = json.loads(run("inspect", folder, "--json").out)
    assert (report["loads"], report["part"], report["metadata"]["step"]) == (True, "state_dict", 3)
    assert report["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
