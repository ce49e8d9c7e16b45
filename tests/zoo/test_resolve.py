"""Resolve the names of models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneclip import zoo
from oneclip.errors import AmbiguousModelError, UnknownModelError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with files of a training run, and names that look like other kinds."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "epoch_9.pt").touch()
    (tmp_path / "laion2b").touch()
    (tmp_path / "RN50").mkdir()
    (tmp_path / "C:\\models").mkdir()
    (tmp_path / "C:\\models\\a.pt").touch()
    (tmp_path / "C:" / "models").mkdir(parents=True)
    (tmp_path / "C:" / "models" / "b.pt").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(zoo.OPENAI_NAMES))
def test_openai_names_resolve_to_pretrained_weights(name: str) -> None:
    found = zoo.resolve(name)
    assert (found.kind, found.architecture) == ("pretrained", zoo.OPENAI_NAMES[name])
    assert found.pretrained == zoo.pretrained(name, "openai")
    assert found.name == name


@pytest.mark.parametrize(
    ("name", "architecture", "tag"),
    [
        ("ViT-B-32:laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B/32:laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B-32:LAION2B-S34B-B79K", "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-L/14@336px:openai", "ViT-L-14-336", "openai"),
        ("ViT-B/32-quickgelu:openai", "ViT-B-32-quickgelu", "openai"),
        ("RN50:cc12m", "RN50", "cc12m"),
    ],
)
def test_architecture_and_tag_resolve_to_pretrained_weights(name: str, architecture: str, tag: str) -> None:
    found = zoo.resolve(name)
    assert (found.kind, found.architecture) == ("pretrained", architecture)
    assert found.pretrained == zoo.pretrained(architecture, tag)


@pytest.mark.parametrize(
    ("name", "architecture", "path"),
    [
        ("ViT-B-32:run/epoch_9.pt", "ViT-B-32", "run/epoch_9.pt"),
        ("ViT-B/32:./run/epoch_9.pt", "ViT-B-32", "run/epoch_9.pt"),
        ("ViT-B-32:laion2b", "ViT-B-32", "laion2b"),  # not a tag, but an existing file
        ("ViT-B-32:C:\\models\\a.pt", "ViT-B-32", "C:\\models\\a.pt"),
        ("ViT-B/32:C:/models/b.pt", "ViT-B-32", "C:/models/b.pt"),
    ],
)
def test_architecture_and_file_resolve_to_both(name: str, architecture: str, path: str) -> None:
    found = zoo.resolve(name)
    assert (found.kind, found.architecture, found.path) == ("architecture-file", architecture, Path(path))


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("run", "folder", "run"),
        ("./run", "folder", "run"),
        ("run/", "folder", "run"),
        ("local-dir:run", "folder", "run"),
        ("run/epoch_9.pt", "file", "run/epoch_9.pt"),
        ("C:\\models\\a.pt", "file", "C:\\models\\a.pt"),
        ("C:\\models", "folder", "C:\\models"),
        ("local-dir:C:\\models", "folder", "C:\\models"),
        ("C:/models/b.pt", "file", "C:/models/b.pt"),
        ("./RN50", "folder", "RN50"),
        (Path("RN50"), "folder", "RN50"),
    ],
)
def test_paths_resolve_to_files_and_folders(name: str | Path, kind: str, path: str) -> None:
    found = zoo.resolve(name)
    assert (found.kind, found.path) == (kind, Path(path))


@pytest.mark.parametrize(
    ("name", "repo", "subfolder", "revision"),
    [
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None, None),
        ("hf-hub:owner/name@main", "owner/name", None, "main"),
        ("hf-hub:owner/name/sub/folder@refs/pr/1", "owner/name", "sub/folder", "refs/pr/1"),
        ("hf-hub:owner/name.v1/sub", "owner/name.v1", "sub", None),
        ("hf-hub:owner/name/", "owner/name", None, None),
        ("hf-hub:owner/name/sub/@v1.0", "owner/name", "sub", "v1.0"),
    ],
)
def test_hub_names_resolve_to_repositories(
    name: str, repo: str, subfolder: str | None, revision: str | None
) -> None:
    found = zoo.resolve(name)
    assert (found.kind, found.repo, found.subfolder, found.revision) == ("hub", repo, subfolder, revision)
    address = zoo.HubAddress(repo, subfolder, revision)
    assert zoo.parse_hub_address(str(address)) == address


def test_pocket_resolves_to_the_weights_in_the_package() -> None:
    found = zoo.resolve("pocket")
    assert (found.kind, found.path) == ("pocket", zoo.pocket_path())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-23", "'ViT-B-23' is not a known model; did you mean ViT-B-32"),
        ("vit-b/32x", "did you mean ViT-B/32|did you mean ViT-B-32"),
        ("ViT-B-32:laion2c", "'laion2c' is not a known tag of ViT-B-32; did you mean"),
        ("ViT-C-32:openai", "'ViT-C-32' is not a known architecture; did you mean"),
        ("ViT-S-16:openai", "ViT-S-16 has no published weights"),
        ("ViT-B-32:run/epoch_8.pt", r"'run/epoch_8\.pt' is not a known file; did you mean run/epoch_9\.pt"),
        ("ViT-B-32:run", "It is a folder"),
        ("ViT-B-16-SigLIP:webli_en_b16_224.npz", r"'webli_en_b16_224\.npz' is not a known file"),
        ("run/epoch_8.pt", r"did you mean run/epoch_9\.pt\? /.*/run/epoch_8\.pt does not exist"),
        ("missing.safetensors", "is not a known file or folder"),
        ("D:\\models\\a.pt", "is not a known file or folder"),
        ("D:/models/a.pt", "is not a known file or folder"),
        ("\\\\server\\share\\a.pt", "is not a known file or folder"),
        ("ViT-B-32:D:\\models\\a.pt", r"'D:\\\\models\\\\a\.pt' is not a known file"),
        (
            "openai/clip-vit-base-patch32",
            "on the Hugging Face hub, write hf-hub:openai/clip-vit-base-patch32",
        ),
        ("https://huggingface.co/own/model", r"write hf-hub:own/model\."),
        ("timm/ViT-B-16-SigLIP", r"did you mean .*ViT-B-16-SigLIP.* write hf-hub:timm/ViT-B-16-SigLIP\."),
        ("hf-hub:name", "Write hf-hub:owner/name"),
        ("hf-hub:", "Write hf-hub:owner/name"),
        ("hf-hub:a/b/../../c", "Write hf-hub:owner/name"),
        ("hf-hub:a/../b", "Write hf-hub:owner/name"),
        ("hf-hub:../b", "Write hf-hub:owner/name"),
        ("hf-hub:a/b//etc", "Write hf-hub:owner/name"),
        ("hf-hub:a/b@../../c", "Write hf-hub:owner/name"),
        ("hf-hub:a/b/c\\..\\d", "Write hf-hub:owner/name"),
        ("local-dir:nowhere", "is not a known"),
        ("pockets", "did you mean pocket"),
        ("", "is not a known"),
        (":", "is not a known"),
        ("a" * 5000, "is not a known"),
        ("a\0b", "is not a known"),
        ("~nobody-of-that-name/m.pt", "is not a known"),
    ],
)
def test_unknown_names_get_a_helpful_error(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        zoo.resolve(name)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32:"])
def test_an_architecture_alone_has_no_weights(name: str) -> None:
    with pytest.raises(AmbiguousModelError, match=re.escape("try ViT-B-32:openai, ")):
        zoo.resolve(name)
