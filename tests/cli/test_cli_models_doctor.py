"""`oneclip models` and `oneclip doctor`: what they list is so."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commandline import Run

from oneclip import zoo
from oneclip.cli.sizes import count_parameters, is_buildable
from oneclip.model import build_model
from oneclip.text import get_tokenizer

BUILDABLE = [name for name in zoo.architectures() if is_buildable(zoo.architecture(name))]


@pytest.mark.parametrize("name", BUILDABLE)
def test_what_is_listed_can_be_built_and_is_as_large_as_said(name: str) -> None:
    cfg = zoo.architecture(name)
    get_tokenizer(cfg.text_cfg)
    with torch.device("meta"):
        model = build_model(cfg)
    count = count_parameters(cfg)
    assert count is None or count == sum(parameter.numel() for parameter in model.parameters())


def test_the_count_of_published_models_is_the_known_one() -> None:
    assert count_parameters(zoo.architecture("ViT-B-32")) == 151_277_313
    assert count_parameters(zoo.architecture("RN50")) == 102_007_137


def test_json_lists_pocket_then_openai_then_all_others_once(run: Run, pocket: Path) -> None:
    code, out, err = run("models", "--json")
    assert (code, err) == (0, "")
    entries = json.loads(out)["models"]
    names = [entry["name"] for entry in entries]
    assert names[:2] == ["pocket", "RN50"]
    assert names[1:10] == list(zoo.OPENAI_NAMES)
    assert len(names) == len(set(names)) > 60
    assert all(zoo.resolve(name) for name in names)
    assert entries[0]["path"] == str(pocket)
    assert entries[0]["bytes"] == pocket.stat().st_size
    assert entries[0]["parameters"] > 0
    assert {"name", "architecture", "tag", "pixels", "parameters", "path", "bytes"} == entries[0].keys()


def test_a_file_in_the_cache_is_here(
    run: Run, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path))
    assert run("models", "--here", "--json").out.count('"name"') == 1
    (tmp_path / "ViT-B-32.pt").write_bytes(b"12345")
    here = {entry["name"]: entry for entry in json.loads(run("models", "--here", "--json").out)["models"]}
    assert here["ViT-B/32"]["bytes"] == 5
    assert here["ViT-B/32"]["path"] == str(tmp_path / "ViT-B-32.pt")
    assert "yes" in run("models", "ViT-B/32").out


def test_a_search_takes_either_spelling_and_suggests(run: Run, pocket: Path) -> None:
    assert run("models", "vit-b/32").out == run("models", "ViT-B-32").out
    assert run("models", "ViT-B-32").out.splitlines()[1].startswith("ViT-B/32 ")
    code, _, err = run("models", "ViT-B-23:openai")
    assert code == 1
    assert "did you mean" in err


def test_doctor_is_content_with_this_environment(run: Run, pocket: Path) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert report["problems"] == []
    assert code == 0
    assert report["versions"]["torch"] == torch.__version__ or report["versions"]["torch"]
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert {"oneclip", "python", "platform", "cpu", "import_names", "caches", "offline"} < report.keys()
    assert "Nothing is in the way" in run("doctor").out


@pytest.mark.parametrize("name", ["clip", "open_clip"])
def test_doctor_names_another_owner_of_our_import_names(
    run: Run, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    info = tmp_path / "site" / "other_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: other-package\nVersion: 1.0\n", encoding="utf-8")
    (info / "top_level.txt").write_text(f"{name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(info.parent)
    code, out, _ = run("doctor", "--json")
    assert code == 1
    assert json.loads(out)["import_names"][name]["other_distributions"] == ["other-package"]
    assert "pip uninstall other-package" in run("doctor").out


def test_doctor_sees_a_folder_that_hides_ours(
    run: Run, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "clip", raising=False)
    code, out, _ = run("doctor")
    assert code == 1
    assert f"import clip finds {tmp_path}" in out.replace("\n", "")


def test_doctor_misses_pocket(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["oneclip.zoo"], "pocket_path", lambda: tmp_path / "nothing")
    code, out, _ = run("doctor")
    assert code == 1
    assert "the model in the wheel is missing" in out
