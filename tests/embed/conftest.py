"""A tiny encoder, a folder of images, and a function that embeds them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import picture, write_tiny_model

import oneclip
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore

Embed = Callable[..., EmbedOutcome]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> oneclip.Encoder:
    """A tiny model with random weights."""
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `photos` with six JPEGs, in the current folder, which is a temporary one."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(6):
        picture(i).save(f"photos/{i}.jpg")
    return Path("photos")


@pytest.fixture
def run(encoder: oneclip.Encoder) -> Embed:
    """Embeds words into an output with the tiny model."""

    def call(
        *words: object, output: str = "vectors.npz", decode: str = "exact", **options: object
    ) -> EmbedOutcome:
        find = {key: options.pop(key) for key in ("column", "folder") if key in options}
        texts = decode in ("text", "truncate")
        sources = find_sources([str(word) for word in words], texts=texts, **find)  # type: ignore[arg-type]
        with EmbeddingStore(output, EmbeddingMetadata.for_encoder(encoder, decode)) as store:  # type: ignore[arg-type]
            return embed(encoder, sources, store, decode=decode, batch_size=2, **options)  # type: ignore[arg-type]

    return call
