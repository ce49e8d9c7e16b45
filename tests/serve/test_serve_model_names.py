"""Names of the model that is served, in all spellings."""

import os
from contextlib import suppress
from typing import cast

import pytest

from oneclip.serve.embedder import Embedder
from oneclip.serve.errors import RequestError
from oneclip.serve.model_names import check_model
from oneclip.serve.settings import ServeSettings
from oneclip.serve.state import ServerState


class Named:
    """What the check reads of an embedder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.encoder = self


def is_served(requested: str, served: str, *aliases: str) -> bool:
    state = ServerState(ServeSettings(aliases=aliases), embedder=cast("Embedder", Named(served)))
    with suppress(RequestError):
        assert check_model(requested, state) == served
        return True
    return False


@pytest.mark.parametrize(
    ("requested", "served"),
    [
        ("ViT-B/32", "ViT-B-32:openai"),
        ("ViT-B-32:openai", "ViT-B/32"),
        ("ViT-B-32__openai", "ViT-B/32"),
        ("ViT-B-32::openai", "ViT-B/32"),
        ("ViT-B-32-quickgelu:openai", "ViT-B-32:openai"),
        ("hf-hub:timm/vit_base_patch32_clip_224.openai", "ViT-B-32:openai"),
        ("timm/vit_base_patch32_clip_224.openai", "ViT-B-32:openai"),
        ("ViT-L-14-336__openai", "ViT-L/14@336px"),
        ("ViT-B-32__laion2b-s34b-b79k", "ViT-B-32:laion2b_s34b_b79k"),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32:laion2b_s34b_b79k"),
        ("ViT-H-14-378-quickgelu__dfn5b", "ViT-H-14-378-quickgelu:dfn5b"),
        ("owner/own-model", "hf-hub:owner/own-model"),
        ("models/own.pt", "models/own.pt"),
    ],
)
def test_two_spellings_of_a_model_are_the_same(requested: str, served: str) -> None:
    assert is_served(requested, served)
    assert is_served(requested, "pocket", served)


@pytest.mark.parametrize(
    ("requested", "served"),
    [
        ("ViT-B-32:openai", "ViT-B-32:laion2b_s34b_b79k"),
        ("ViT-B-16:openai", "ViT-B-32:openai"),
        ("ViT-B-32", "ViT-B-32:openai"),
        ("hf-hub:owner/own-model@v2", "hf-hub:owner/own-model"),
        ("Pocket", "pocket"),
        ("", "pocket"),
        ("hf-hub:", "pocket"),
        (":", "pocket"),
    ],
)
def test_two_models_are_not_the_same(requested: str, served: str) -> None:
    assert not is_served(requested, served)


def test_no_file_is_looked_for_by_the_name_in_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("/etc/passwd", "../secret.pt", "~/x", "local-dir:/etc", "ViT-B-32:/etc/passwd")
    looked_for: list[str] = []
    with monkeypatch.context() as patch:
        for function in ("stat", "lstat", "open", "listdir", "scandir"):
            patch.setattr(os, function, lambda path, *_, **__: looked_for.append(str(path)))
        assert not any(is_served(name, "pocket") for name in names)
    assert not looked_for
