"""`oneclip convert`."""

import json
from pathlib import Path

import pytest
import torch
from commandline import Run

from oneclip import checkpoint
from oneclip.checkpoint import compare
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import build_model
from oneclip.zoo import catalogue

PIXELS = 32


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that every format can represent."""
    vision = CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=PIXELS)
    cfg = ModelCfg(24, vision, CLIPTextCfg(width=64, heads=1, layers=1), quick_gelu=True)
    path = tmp_path_factory.mktemp("quick") / "quick.safetensors"
    torch.manual_seed(0)
    state_dict = {name: tensor.half() for name, tensor in build_model(cfg).state_dict().items()}
    described = {"model_cfg": cfg.to_dict(), "preprocess_cfg": PreprocessCfg(size=PIXELS).to_dict()}
    checkpoint.save(path, state_dict, described)
    return path


TARGETS = {"transformers": "out", "open_clip": "out", "openai": "out.pt", "safetensors": "out.safetensors"}


@pytest.mark.parametrize("form", TARGETS)
def test_the_written_model_is_equal(run: Run, quick: Path, tmp_path: Path, form: str) -> None:
    code, out, err = run("convert", quick, tmp_path / TARGETS[form], "--to", form)
    assert code == 0, err
    assert "all bits equal" in out
    assert [line.split()[:2] for line in out.splitlines()[-3:]] == [
        ["image", "0"],
        ["text", "0"],
        ["logits", "0"],
    ]


def test_converting_through_all_formats_gives_the_same_file(run: Run, quick: Path, tmp_path: Path) -> None:
    source = quick
    for target in ("first.safetensors", "transformers", "open_clip", "last.safetensors"):
        form = "safetensors" if target.endswith(".safetensors") else target
        assert run("convert", source, tmp_path / target, "--to", form).code == 0
        source = tmp_path / target
    first, last = (checkpoint.read(tmp_path / name) for name in ("first.safetensors", "last.safetensors"))
    assert last.metadata == first.metadata
    assert compare.require_equal_tensors(first.state_dict, last.state_dict) == len(first.state_dict)


def test_json_has_the_differences(run: Run, quick: Path, tmp_path: Path) -> None:
    code, out, err = run("convert", quick, tmp_path / "out", "--to", "transformers", "--json")
    content = json.loads(out)
    assert code == 0, err
    assert content["format"] == "transformers"
    assert content["differences"]["read back"] == {"image": 0.0, "text": 0.0, "logits": 0.0}
    assert max(content["differences"]["by transformers"].values()) < 1e-5


def test_an_existing_target_is_kept_without_force(run: Run, quick: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    code, _, err = run("convert", quick, target, "--to", "safetensors")
    assert code == 1
    assert "exists; it is replaced only with --force\n" in err
    assert target.read_text() == "precious"
    assert run("convert", quick, target, "--to", "safetensors", "--force").code == 0


def test_a_model_that_does_not_fit_is_refused_with_the_reason(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, err = run("convert", model, tmp_path / "out.pt", "--to", "openai")
    assert (code, out) == (1, "")
    assert "QuickGELU" in err
    assert not (tmp_path / "out.pt").exists()


def test_a_missing_activation_must_be_given(run: Run, quick: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(checkpoint.read(quick).state_dict, bare)
    code, _, err = run("convert", bare, tmp_path / "out.pt", "--to", "openai")
    assert code == 1
    assert "--quick-gelu" in err
    assert "--heads, --preprocess" in err
    said = ("--quick-gelu", "--heads", "1,1", "--preprocess", "openai")
    assert run("convert", bare, tmp_path / "out.pt", "--to", "openai", *said).code == 0


def test_a_wrong_suffix_is_an_error_before_anything_is_written(run: Run, quick: Path, tmp_path: Path) -> None:
    code, _, err = run("convert", quick, tmp_path / "out.npz", "--to", "safetensors")
    assert code == 1
    assert ".safetensors" in err
    assert list(tmp_path.iterdir()) == []


def test_the_reason_is_named_if_transformers_fails(
    run: Run, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'CLIPModel'") from error

    monkeypatch.setattr(compare, "run_transformers", fail)
    code, _, err = run("convert", quick, tmp_path / "out", "--to", "transformers")
    assert code == 0
    assert "could not run the converted model: operator torchvision::nms does not exist. The installed" in err


def test_assumptions_are_notes(
    run: Run, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue._rows(), "quick", checkpoint.load(quick, device="cpu").cfg.to_dict())
    torch.save(checkpoint.read(quick).state_dict, tmp_path / "bare.pt")
    named = f"quick:{tmp_path}/bare.pt"
    code, _, err = run("convert", named, tmp_path / "out.safetensors", "--to", "safetensors")
    assert code == 0
    assert err.count("note: ") == err.count("are taken from quick") == 1
