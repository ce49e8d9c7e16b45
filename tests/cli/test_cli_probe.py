"""`oneclip probe` and `oneclip classify --probe`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import Run
from small_datasets import make_classes
from tiny import write_tiny_model

import oneclip


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path / "cache"))
    return make_classes(Path("colours"), splits={"train": 5, "test": 3})


def test_a_probe_is_fitted_to_train_and_measured_on_test(run: Run, colours: Path, model: Path) -> None:
    code, out, err = run("probe", colours, "-o", "my.probe", "--model", model, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["classes"] == {"blue": 5, "green": 5, "red": 5}
    assert facts["measured_on"] == "cross-validation"
    assert facts["test"]["images"] == 9
    encoder = oneclip.load(model)
    paths = sorted(colours.glob("train/*/*.png"))
    by_hand = oneclip.LinearProbe(encoder).fit(paths, [path.parent.name for path in paths])
    test = sorted(colours.glob("test/*/*.png"))
    np.testing.assert_allclose(
        oneclip.LinearProbe.load("my.probe", encoder).probabilities(test),
        by_hand.probabilities(test),
        atol=1e-6,
    )
    right = [found == path.parent.name for found, path in zip(by_hand.predict(test), test, strict=True)]
    assert facts["test"]["accuracy"] == pytest.approx(np.mean(right))


def test_the_table_and_a_folder_without_splits(run: Run, colours: Path, model: Path) -> None:
    code, out, err = run("probe", colours / "train", "-o", "my.probe", "--model", model, "-C", "7")
    assert code == 0
    assert "classes" in out
    assert "15, 5 to 5 per class" in out
    assert "C = 7" in out
    assert "accuracy" not in out
    assert err == "wrote my.probe; use it with: oneclip classify --probe my.probe IMAGE\n"


def test_classify_uses_the_model_of_the_probe(run: Run, colours: Path, model: Path) -> None:
    assert run("probe", colours, "-o", "my.probe", "--model", model).code == 0
    images = sorted(colours.glob("test/*/0*.png"))[::3]
    code, out, err = run("classify", *images, "--probe", "my.probe", "--json", "--top", "2")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer.keys() == {"model", "probe", "images", "skipped"}
    assert (answer["model"], answer["probe"]) == (str(model), "my.probe")
    probe = oneclip.LinearProbe.load("my.probe")
    assert [image["labels"][0]["label"] for image in answer["images"]] == probe.predict(images)
    best = probe.probabilities(images).max(axis=1)
    assert [image["labels"][0]["probability"] for image in answer["images"]] == pytest.approx(best, abs=1e-5)
    assert [len(image["labels"]) for image in answer["images"]] == [2] * len(images)
    assert run("classify", *images, "--probe", "my.probe").out.count(" %") == 3 * len(images)


def test_classify_refuses_another_model_or_precision(run: Run, colours: Path, model: Path) -> None:
    assert run("probe", colours, "-o", "my.probe", "--model", model).code == 0
    other = write_tiny_model(Path("other.safetensors"), seed=3)
    image = colours / "test" / "red" / "00.png"
    code, _, err = run("classify", image, "--probe", "my.probe", "--model", other)
    assert code == 1
    assert f"my.probe was made with model {model}, not other.safetensors (" in err
    assert (
        "precision fp32, not bf16" in run("classify", image, "--probe", "my.probe", "--precision", "bf16").err
    )


@pytest.mark.parametrize("option", [("-l", "red"), ("--template", "a {}")])
def test_a_probe_has_labels_of_its_own(run: Run, colours: Path, option: tuple[str, str]) -> None:
    code, _, err = run("classify", colours, "--probe", "my.probe", *option)
    assert code == 2
    assert "--probe has labels of its own" in err


def test_a_probe_that_does_not_exist(run: Run, colours: Path) -> None:
    code, _, err = run("classify", colours, "--probe", "nowhere.probe")
    assert code == 1
    assert err.startswith("error: nowhere.probe is not a file")


def test_an_unreadable_image_is_an_error_unless_it_may_be_skipped(
    run: Run, colours: Path, model: Path
) -> None:
    (colours / "train" / "red" / "bad.png").write_bytes(b"no image")
    arguments = ("probe", colours, "-o", "my.probe", "--model", model)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert "cannot read colours/train/red/bad.png" in err
    assert "my.probe was not written, because 1 of 25 images cannot be read; --skip" in err
    assert not Path("my.probe").exists()
    assert run(*arguments, "--skip").code == 3
    assert Path("my.probe").exists()


def test_only_a_probe_is_replaced(run: Run, colours: Path, model: Path) -> None:
    Path("notes.txt").write_text("mine")
    code, _, err = run("probe", colours, "-o", "notes.txt", "--model", model)
    assert code == 1
    assert "notes.txt exists and is not a probe" in err
    assert Path("notes.txt").read_text() == "mine"
    for _ in range(2):
        assert run("probe", colours, "-o", "my.probe", "--model", model).code == 0
    assert (
        "there is no folder nowhere" in run("probe", colours, "-o", "nowhere/my.probe", "--model", model).err
    )


def test_one_class_is_an_error(run: Run, colours: Path, model: Path) -> None:
    for name in ("green", "blue"):
        shutil.rmtree(colours / "train" / name)
    code, _, err = run("probe", colours / "train", "-o", "my.probe", "--model", model)
    assert code == 1
    assert err.count("\n") == 1
    assert "two or more classes" in err


def test_a_file_that_is_no_probe_is_named_as_that(run: Run, images: Path) -> None:
    result = run("classify", "--probe", images / "cat.png", images / "cat.png")
    assert result.code == 1
    assert "cat.png is not a linear probe, as `oneclip probe` writes it, or it is damaged" in result.err
