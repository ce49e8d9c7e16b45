"""`oneclip models` and `oneclip doctor`."""

import errno
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from commandline import Run

import oneclip
from oneclip import zoo
from oneclip.installation import install_command
from oneclip.zoo.search import _accuracy

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
JSON_BLOCK = re.search(r"```json\n(\{\n  \"models\": .*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]  # type: ignore[index]


def test_json_lists_pocket_then_openai_then_all_others_once(run: Run, pocket: Path) -> None:
    code, out, err = run("models", "--json")
    assert (code, err) == (0, "")
    entries = json.loads(out)["models"]
    names = [entry["name"] for entry in entries]
    assert names[:2] == ["pocket", "RN50"]
    assert names[1:10] == list(zoo.OPENAI_NAMES)
    assert len(names) == len(set(names)) == 170
    assert all(zoo.resolve(name) for name in names)
    assert entries[0]["path"] == str(pocket)
    assert entries[0]["bytes"] == pocket.stat().st_size
    documented = set(re.findall(r'"(\w+)":', JSON_BLOCK)) - {"models"}
    assert all(entry.keys() == documented for entry in entries)
    assert entries[0]["parameters"] == sum(p.numel() for p in oneclip.load("pocket").model.parameters())


def test_a_cached_file_is_listed_as_here(
    run: Run, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path))
    assert run("models", "--here", "--json").out.count('"name"') == 1
    (tmp_path / "ViT-B-32.pt").write_bytes(b"12345")
    here = {entry["name"]: entry for entry in json.loads(run("models", "--here", "--json").out)["models"]}
    assert here["ViT-B/32"]["bytes"] == 5
    assert here["ViT-B/32"]["path"] == str(tmp_path / "ViT-B-32.pt")
    assert run("models", "ViT-B/32").out.splitlines()[1].split()[-1] == "here"


def test_a_narrow_terminal_shows_whole_names_accuracy_and_download_size(
    run: Run, pocket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = run("models")
    rows = found.out.splitlines()
    assert all(len(row) <= 80 for row in rows)
    assert [row.split()[0] for row in rows[1:]] == ["pocket", *(each.name for each in zoo.search())]
    row = next(row for row in rows if row.startswith("ViT-B-32:laion2b_s34b_b79k"))
    assert row.split()[1:] == ["224", "66.6", "%", "605", "MB"]  # as open_clip publishes it; 4 bytes each
    assert "ViT-B-32-quickgelu:openai is ViT-B/32" in found.err


def test_every_published_accuracy_belongs_to_a_model() -> None:
    names = {
        f"{arch.removesuffix('-quickgelu')}:{tag}"
        for arch in zoo.architectures()
        for tag in zoo.pretrained_tags(arch)
    }
    assert set(_accuracy()) <= names
    by_name = {found.name: found.imagenet for found in zoo.search()}
    assert by_name["ViT-L/14"] == 0.7554
    assert by_name["ViT-H-14-378:dfn5b"] == 0.8437  # measured with QuickGELU, as this name computes it
    assert by_name["ViT-B-16-SigLIP2:webli"] is None


def test_a_search_takes_either_spelling_and_suggests(run: Run, pocket: Path) -> None:
    assert run("models", "vit-b/32").out == run("models", "ViT-B-32").out
    assert run("models", "ViT-B-32").out.splitlines()[1].startswith("ViT-B/32 ")
    assert run("models", "ViT-B-32:openai").err.startswith("1 model, ")
    code, _, err = run("models", "ViT-B-23:openai")
    assert code == 1
    assert "did you mean" in err


def listed(run: Run, *arguments: str) -> list[dict]:
    code, out, err = run("models", *arguments, "--json")
    assert code == 0, err
    found: list[dict] = json.loads(out)["models"]
    return found


def test_filters_narrow_the_list(run: Run, pocket: Path) -> None:
    assert {e["family"] for e in listed(run, "--family", "siglip2")} == {"SigLIP 2"}
    assert all("dfn" in e["tag"] for e in listed(run, "--tag", "DFN"))
    assert {tuple(e["pixels"]) for e in listed(run, "--resolution", "336")} == {(336, 336)}
    sizes = [e["parameters"] for e in listed(run, "--min-params", "0.9B", "--max-params", "1000M")]
    assert sizes
    assert all(9e8 <= size <= 1e9 for size in sizes)
    both = listed(run, "siglip 384", "--max-params", "400000000")
    assert both == [e for e in listed(run, "siglip") if "384" in e["name"] and e["parameters"] <= 4e8]


def test_missing_extras_are_named(run: Run, pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(run, "MobileCLIP-S1")[0]["extras"] == ["timm"]
    monkeypatch.setattr("oneclip.cli.models.find_spec", lambda name: None)
    assert listed(run, "MobileCLIP-S1")[0]["missing_extras"] == ["timm"]
    code, out, err = run("models", "MobileCLIP-S1")
    assert code == 0
    assert " timm" in out.splitlines()[1]
    assert install_command("timm") in err


def test_architectures_without_weights_are_listed_on_request(run: Run, pocket: Path) -> None:
    assert listed(run, "ViT-S-16") == []
    assert "ViT-S-16 has no published weights" in run("models", "ViT-S-16").err
    assert {e["name"]: e["tag"] for e in listed(run, "ViT-S-16", "--untrained")}["ViT-S-16"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--family", "siglp"], 1, "is not a known family; did you mean SigLIP"),
        (["--tag", "laoin2b_s32b_b82k"], 1, "is not a known tag; did you mean laion2b_s32b_b82k"),
        (["mobilclip"], 1, "is not a known model; did you mean"),
        (["--min-params", "many"], 2, "write it like 150M or 1.2B"),
        (
            ["--resolution", "1", "--max-params", "1M"],
            0,
            "no model matches --resolution 1 and --max-params 1e+06",
        ),
        (["--resolution", "-1"], 2, "expected at least 1"),
    ],
)
def test_searches_without_results(
    run: Run, pocket: Path, arguments: list[str], code: int, message: str
) -> None:
    found = run("models", *arguments)
    assert found.code == code
    assert message in found.err


def test_doctor_finds_no_problems_here(run: Run, pocket: Path) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert report["problems"] == []
    assert code == 0
    assert report["versions"]["torch"] == torch.__version__ or report["versions"]["torch"]
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert {"fp32", "bf16", "fp16", "auto"} <= report["plans"].keys()
    assert {"oneclip", "python", "platform", "cpu", "import_names", "caches", "offline"} < report.keys()
    assert "No problems found" in run("doctor").out


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
    [problem] = json.loads(out)["problems"]
    pip = f"\n  {shlex.quote(sys.executable)} -m pip "
    before, install, place = problem.partition(f"{pip}install --force-reinstall --no-deps --editable ")
    assert before.endswith(f"Run:{pip}uninstall -y other-package")
    assert install
    assert (Path(*shlex.split(place)) / "pyproject.toml").is_file()  # where this oneclip was installed from
    assert "pip uninstall" not in run("doctor").out.replace("-m pip uninstall -y", "")


def test_doctor_names_the_packages_that_need_another_owner_of_our_names(
    run: Run, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {
        "open_clip_torch": "",
        "clip-benchmark": "Requires-Dist: Open.CLIP-torch (>=2.0) ; python_version > '3'\n",
        "unrelated": "Requires-Dist: open-clip-torch ; extra == 'test'\nRequires-Dist: open-clip-torch-more\n",
    }
    for package, requires in packages.items():
        info = tmp_path / "site" / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n{requires}", encoding="utf-8"
        )
    (tmp_path / "site" / "open_clip_torch-1.0.dist-info" / "top_level.txt").write_text("open_clip\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    [problem] = json.loads(run("doctor", "--json").out)["problems"]
    assert "\nclip-benchmark requires open_clip_torch" in problem
    assert "with --no-deps" in problem


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


def test_doctor_reports_a_missing_pocket(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["oneclip.zoo"], "pocket_path", lambda: tmp_path / "nothing")
    code, out, _ = run("doctor")
    assert code == 1
    assert "the bundled model is missing" in out


@pytest.mark.parametrize("pixels", [0, -1])
def test_a_resolution_that_no_image_has_is_refused(run: Run, pixels: int) -> None:
    found = run("models", "--resolution", pixels)
    assert (found.code, found.out) == (2, "")
    assert "--resolution" in found.err


def test_a_deleted_current_folder_is_an_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    found = run("models")
    assert (found.code, found.err) == (
        1,
        "error: the current folder no longer exists; change to one that does (cd)\n",
    )


def test_a_closed_standard_output_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    found = run("models", "pocket")
    assert found.code == 1
    assert found.err == "error: standard output is closed, so the result cannot be written\n"


class Full(io.StringIO):
    """Stream on a full disk, which fails when the buffer is flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_behind_standard_output_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    found = run("models", "pocket")
    assert found.code == 1
    assert found.err == "error: the result could not be written: No space left on device\n"
