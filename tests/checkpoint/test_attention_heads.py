"""Attention heads and preprocessing, which shapes do not show: where they come from, and errors if unknown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_cfg
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint import ConvertibleModel, DeclaredFacts, convert, load, resolve_evidence, save
from oneclip.checkpoint.readers.read import Checkpoint
from oneclip.checkpoint.resolve.attention_heads import head_counts
from oneclip.checkpoint.resolve.evidence import CheckpointEvidence
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError
from oneclip.model import build_model
from oneclip.zoo import catalogue
from tests import programs

VISION = CLIPVisionCfg(layers=1, width=160, head_width=80, patch_size=8, image_size=16)
TEXT = CLIPTextCfg(context_length=9, vocab_size=60, width=64, heads=4, layers=1)
UNPUBLISHED = ModelCfg(16, VISION, TEXT)
PIXELS = PreprocessCfg(size=16)
ALL_FACTS: dict[str, Any] = {"quick_gelu": False, "heads": (2, 4), "preprocess": "openai"}


def weights(cfg: ModelCfg = UNPUBLISHED) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_model(cfg).state_dict()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    save(tmp_path / "m.pt", weights())
    return tmp_path / "m.pt"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A zoo with `tiny`, whose heads have width 16, and a file with its weights only."""
    monkeypatch.setitem(catalogue._rows(), "tiny", tiny_cfg().to_dict())
    save(tmp_path / "tiny.pt", weights(tiny_cfg()))
    catalogue._weights_of.cache_clear()
    yield tmp_path
    catalogue._weights_of.cache_clear()


def shapes_of(arch: str, pixels: int, tokens: int) -> CheckpointEvidence:
    """The evidence of a bare file: a published architecture with other sizes, on the meta device."""
    cfg = zoo.architecture(arch)
    sizes = replace(cfg.vision_cfg, image_size=pixels), replace(cfg.text_cfg, context_length=tokens)
    state = build_on_meta(
        lambda: build_model(replace(cfg, vision_cfg=sizes[0], text_cfg=sizes[1]))
    ).state_dict()
    return CheckpointEvidence(Checkpoint(state, "state-dict"), Path("m.pt"), "state-dict")


@pytest.mark.parametrize(
    ("arch", "pixels", "tokens", "heads"),
    [
        ("ViT-H-14", 336, 77, (16, 16)),  # 1280 / 80, and 16, in open_clip's ViT-H-14.json
        ("ViT-bigG-14", 336, 77, (16, 20)),  # 1664 / 104, and 20
        ("ViT-bigG-14", 224, 248, (16, 20)),
        ("ViT-g-14", 280, 77, (16, 16)),  # 1408 / 88, and 16
        ("ViT-B-16", 320, 248, (12, 8)),
        ("RN50", 288, 77, (32, 8)),
    ],
)
def test_a_published_architecture_with_other_sizes_keeps_its_heads(
    arch: str, pixels: int, tokens: int, heads: tuple[int, int]
) -> None:
    found = resolve_evidence(shapes_of(arch, pixels, tokens), DeclaredFacts(quick_gelu=True))
    assert head_counts(found.cfg) == heads
    assert (found.cfg.vision_cfg.image_size, found.cfg.text_cfg.context_length) == (pixels, tokens)
    assert found.preprocess_cfg.size == pixels
    assert f"has the shapes of {arch} for {pixels} pixels and {tokens} tokens" in found.notes[0]


def test_the_error_names_an_architecture_with_other_sizes() -> None:
    with pytest.raises(
        AmbiguousModelError, match="the shapes of ViT-H-14 for 336 pixels and 77 tokens; pass quick_gelu"
    ):
        resolve_evidence(shapes_of("ViT-H-14", 336, 77))


@pytest.mark.parametrize("missing", list(ALL_FACTS))
def test_the_error_asks_only_for_missing_facts(bare: Path, missing: str) -> None:
    given = {name: value for name, value in ALL_FACTS.items() if name != missing}
    with pytest.raises(
        AmbiguousModelError, match=rf"published architecture, and does not say .*{missing}="
    ) as caught:
        load(bare, **given)
    assert not any(f"{name}=" in str(caught.value).partition("Pass it")[2] for name in given)


def test_given_heads_and_preprocessing_are_used(bare: Path) -> None:
    loaded = load(bare, device="cpu", **ALL_FACTS)
    assert (loaded.cfg, loaded.preprocess_cfg) == (UNPUBLISHED, PIXELS)
    assert loaded.model.visual.transformer.resblocks[0].attn.num_heads == 2
    assert loaded.model.transformer.resblocks[0].attn.num_heads == 4
    other = load(bare, device="cpu", **ALL_FACTS | {"preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    assert other.preprocess_cfg == PreprocessCfg(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("heads", [0, True, "4", (1,), (1, 2, 3), 1.5])
def test_invalid_heads_are_refused(bare: Path, heads: Any) -> None:
    with pytest.raises(ConfigError, match="expected a number of heads"):
        load(bare, **ALL_FACTS | {"heads": heads})


def test_heads_that_do_not_divide_the_width_are_refused(bare: Path) -> None:
    with pytest.raises(CheckpointError, match="width 160, not a multiple of 3 heads"):
        load(bare, **ALL_FACTS | {"heads": (3, 4)})


def test_invalid_preprocess_is_refused(bare: Path) -> None:
    with pytest.raises(ConfigError, match="preprocess is 'clip'"):
        load(bare, **ALL_FACTS | {"preprocess": "clip"})


def test_openai_format_has_heads_of_width_64(tmp_path: Path) -> None:
    cfg = ModelCfg(
        16, replace(VISION, width=128, head_width=64), replace(TEXT, vocab_size=49408, heads=1), True
    )
    convert(ConvertibleModel(weights(cfg), cfg, PIXELS), tmp_path / "m.pt", "openai")
    assert load(tmp_path / "m.pt").cfg == cfg


def test_openai_format_is_refused_for_an_architecture_with_other_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = ModelCfg(
        16, replace(VISION, width=128, head_width=64), replace(TEXT, vocab_size=49408, heads=1), True
    )
    convert(ConvertibleModel(weights(cfg), cfg, PIXELS), tmp_path / "m.pt", "openai")
    other = replace(cfg, vision_cfg=replace(cfg.vision_cfg, head_width=32))
    monkeypatch.setitem(catalogue._rows(), "narrow", other.to_dict())
    with pytest.raises(ConfigError, match="with 2 heads in its image tower, but narrow has 4: load it as"):
        load(f"narrow:{tmp_path}/m.pt")


def test_heads_must_agree_with_the_architecture(tiny: Path) -> None:
    assert load(f"tiny:{tiny}/tiny.pt", quick_gelu=False, heads=2).cfg == tiny_cfg()
    with pytest.raises(
        ConfigError, match=r"the image tower .* has 2 heads by its configuration, and 4 by heads="
    ):
        load(f"tiny:{tiny}/tiny.pt", quick_gelu=False, heads=(4, 2))


def test_given_facts_have_priority_over_an_architecture_found_by_shapes(tiny: Path) -> None:
    pixels = PreprocessCfg(size=32, mean=(0.5,) * 3)
    loaded = load(tiny / "tiny.pt", quick_gelu=False, heads=(4, 8), preprocess={"mean": (0.5,) * 3})
    assert (head_counts(loaded.cfg), loaded.preprocess_cfg) == ((4, 8), pixels)
    with pytest.raises(ConfigError, match=r"the image tower of .* has width 32, not a multiple of 3 heads"):
        load(tiny / "tiny.pt", quick_gelu=False, heads=3)


def test_preprocess_must_agree_with_the_metadata(tiny: Path) -> None:
    convert(
        ConvertibleModel(weights(tiny_cfg()), tiny_cfg(), PreprocessCfg(size=32)),
        tiny / "ours.pt",
        "safetensors",
    )
    assert load(tiny / "ours.pt", preprocess="openai").preprocess_cfg == PreprocessCfg(size=32)
    with pytest.raises(ConfigError, match="another preprocessing of images than preprocess="):
        load(tiny / "ours.pt", preprocess={"mean": (0.5,) * 3})


def test_assumptions_about_a_bare_file_are_logged(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(f"tiny:{tiny}/tiny.pt")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("oneclip", logging.WARNING)
    assert record.getMessage() == (
        f"{tiny}/tiny.pt does not describe its model: GELU, 2 and 2 heads, preprocessing are taken from tiny"
    )


def test_the_log_is_one_line_on_stderr(tiny: Path) -> None:
    program = (
        "from tiny import tiny_cfg; from oneclip.zoo import catalogue; import oneclip\n"
        f"catalogue._rows()['tiny'] = tiny_cfg().to_dict(); oneclip.load('tiny:{tiny}/tiny.pt', device='cpu')"
    )
    done = programs.run(["-c", program])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{tiny}/tiny.pt does not describe its model: GELU, 2 and 2 heads")


FORMS = {"safetensors": "m.safetensors", "open_clip": "folder", "transformers": "folder", "pt": "m.pt"}
WEIGHTS = {"open_clip": "open_clip_model.safetensors", "transformers": "model.safetensors"}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("moved", [True, False])
def test_written_files_contain_their_activation_and_heads(
    tiny: Path, form: str, moved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Even without the files next to them, and when loaded as an architecture with the same shapes."""
    cfg = tiny_cfg(quick_gelu=True)
    cfg.vision_cfg.head_width, cfg.text_cfg.heads = 8, 4
    path = tiny / FORMS[form]
    convert(
        ConvertibleModel(weights(cfg), cfg, PreprocessCfg(size=32)),
        path,
        "safetensors" if form == "pt" else form,
    )
    file = path / WEIGHTS[form] if form in WEIGHTS else path
    if moved:
        file = file.rename(tiny / f"elsewhere{file.suffix}")
    assert load(file).cfg == cfg
    assert caplog.records == []
    with pytest.raises(
        ConfigError, match=r"than tiny .*\(text_cfg\.heads, vision_cfg\.head_width differ\): load it as"
    ):
        load(f"tiny:{file}")
    same = tiny_cfg()
    convert(ConvertibleModel(weights(same), same, PreprocessCfg(size=32)), tiny / "same.pt", "safetensors")
    assert load(f"tiny:{tiny}/same.pt").cfg == same


def test_a_configuration_must_agree_with_the_file_next_to_it(tiny: Path) -> None:
    convert(
        ConvertibleModel(weights(tiny_cfg()), tiny_cfg(), PreprocessCfg(size=32)), tiny / "out", "open_clip"
    )
    config = tiny / "out" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"head_width": 16', '"head_width": 32'))
    with pytest.raises(
        ConfigError, match=r"image tower .* has 2 heads by its own metadata, and 1 by open_clip_config"
    ):
        load(tiny / "out")
