"""Heads and preprocessing, which no shape says: who says them, and what is asked for where nobody does."""

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
from oneclip.checkpoint import Exportable, Said, load, save, settled
from oneclip.checkpoint import save as save_module
from oneclip.checkpoint.readers.read import Checkpoint
from oneclip.checkpoint.resolve.attention_heads import heads_of
from oneclip.checkpoint.resolve.evidence import Examined
from oneclip.checkpoint.skip_init import outline
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError
from oneclip.model import build_model
from oneclip.zoo import catalogue
from tests import programs

VISION = CLIPVisionCfg(layers=1, width=160, head_width=80, patch_size=8, image_size=16)
TEXT = CLIPTextCfg(context_length=9, vocab_size=60, width=64, heads=4, layers=1)
UNPUBLISHED = ModelCfg(16, VISION, TEXT)
PIXELS = PreprocessCfg(size=16)
ALL: dict[str, Any] = {"quick_gelu": False, "heads": (2, 4), "preprocess": "openai"}


def weights(cfg: ModelCfg = UNPUBLISHED) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_model(cfg).state_dict()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    save(tmp_path / "m.pt", weights())
    return tmp_path / "m.pt"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A zoo with `tiny`, whose heads are 16 wide, and a bare file of it."""
    monkeypatch.setitem(catalogue._rows(), "tiny", tiny_cfg().to_dict())
    save(tmp_path / "tiny.pt", weights(tiny_cfg()))
    catalogue._weights_of.cache_clear()
    yield tmp_path
    catalogue._weights_of.cache_clear()


def shapes_of(arch: str, pixels: int, tokens: int) -> Examined:
    """A published architecture at another image size and context length, as a bare file has it, without numbers."""
    cfg = zoo.architecture(arch)
    sizes = replace(cfg.vision_cfg, image_size=pixels), replace(cfg.text_cfg, context_length=tokens)
    state = outline(lambda: build_model(replace(cfg, vision_cfg=sizes[0], text_cfg=sizes[1]))).state_dict()
    return Examined(Checkpoint(state, "state-dict"), Path("m.pt"), "state-dict")


@pytest.mark.parametrize(
    ("arch", "pixels", "tokens", "heads"),
    [
        ("ViT-H-14", 336, 77, (16, 16)),  # as open_clip's ViT-H-14.json has it: 1280 / 80, and 16
        ("ViT-bigG-14", 336, 77, (16, 20)),  # 1664 / 104, and 20
        ("ViT-bigG-14", 224, 248, (16, 20)),
        ("ViT-g-14", 280, 77, (16, 16)),  # 1408 / 88, and 16
        ("ViT-B-16", 320, 248, (12, 8)),
        ("RN50", 288, 77, (32, 8)),
    ],
)
def test_a_published_architecture_of_other_sizes_keeps_its_heads(
    arch: str, pixels: int, tokens: int, heads: tuple[int, int]
) -> None:
    found = settled(shapes_of(arch, pixels, tokens), Said(quick_gelu=True))
    assert heads_of(found.cfg) == heads
    assert (found.cfg.vision_cfg.image_size, found.cfg.text_cfg.context_length) == (pixels, tokens)
    assert found.preprocess_cfg.size == pixels
    assert f"has the shapes of {arch} for {pixels} pixels and {tokens} tokens" in found.notes[0]


def test_the_question_about_such_a_file_names_the_architecture() -> None:
    with pytest.raises(
        AmbiguousModelError, match="the shapes of ViT-H-14 for 336 pixels and 77 tokens; say it"
    ):
        settled(shapes_of("ViT-H-14", 336, 77))


@pytest.mark.parametrize("missing", list(ALL))
def test_what_nobody_says_is_asked_for(bare: Path, missing: str) -> None:
    said = {name: value for name, value in ALL.items() if name != missing}
    with pytest.raises(
        AmbiguousModelError, match=rf"published architecture, and does not say .*{missing}="
    ) as caught:
        load(bare, **said)
    assert not any(f"{name}=" in str(caught.value).partition("Say it")[2] for name in said)


def test_what_is_said_is_built(bare: Path) -> None:
    loaded = load(bare, device="cpu", **ALL)
    assert (loaded.cfg, loaded.preprocess_cfg) == (UNPUBLISHED, PIXELS)
    assert loaded.model.visual.transformer.resblocks[0].attn.num_heads == 2
    assert loaded.model.transformer.resblocks[0].attn.num_heads == 4
    other = load(bare, device="cpu", **ALL | {"preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    assert other.preprocess_cfg == PreprocessCfg(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("heads", [0, True, "4", (1,), (1, 2, 3), 1.5])
def test_what_is_no_number_of_heads_is_refused(bare: Path, heads: Any) -> None:
    with pytest.raises(ConfigError, match="a number of heads was expected"):
        load(bare, **ALL | {"heads": heads})


def test_heads_that_do_not_divide_the_width_are_refused(bare: Path) -> None:
    with pytest.raises(CheckpointError, match="160 wide, which 3 heads do not"):
        load(bare, **ALL | {"heads": (3, 4)})


def test_what_is_no_preprocessing_is_refused(bare: Path) -> None:
    with pytest.raises(ConfigError, match="preprocess is 'clip'"):
        load(bare, **ALL | {"preprocess": "clip"})


def test_openais_own_form_has_heads_of_64(tmp_path: Path) -> None:
    cfg = ModelCfg(
        16, replace(VISION, width=128, head_width=64), replace(TEXT, vocab_size=49408, heads=1), True
    )
    save_module(Exportable(weights(cfg), cfg, PIXELS), tmp_path / "m.pt", "openai")
    assert load(tmp_path / "m.pt").cfg == cfg


def test_openais_form_is_not_loaded_as_an_architecture_of_other_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = ModelCfg(
        16, replace(VISION, width=128, head_width=64), replace(TEXT, vocab_size=49408, heads=1), True
    )
    save_module(Exportable(weights(cfg), cfg, PIXELS), tmp_path / "m.pt", "openai")
    other = replace(cfg, vision_cfg=replace(cfg.vision_cfg, head_width=32))
    monkeypatch.setitem(catalogue._rows(), "narrow", other.to_dict())
    with pytest.raises(ConfigError, match="with 2 heads in its image tower, and narrow has 4: load it as"):
        load(f"narrow:{tmp_path}/m.pt")


def test_the_heads_of_an_architecture_may_be_repeated_and_not_contradicted(tiny: Path) -> None:
    assert load(f"tiny:{tiny}/tiny.pt", quick_gelu=False, heads=2).cfg == tiny_cfg()
    with pytest.raises(ConfigError, match=r"2 heads in its image tower .*, and 4 by heads="):
        load(f"tiny:{tiny}/tiny.pt", quick_gelu=False, heads=(4, 2))


def test_what_the_caller_says_comes_before_an_architecture_that_has_the_shapes(tiny: Path) -> None:
    pixels = PreprocessCfg(size=32, mean=(0.5,) * 3)
    loaded = load(tiny / "tiny.pt", quick_gelu=False, heads=(4, 8), preprocess={"mean": (0.5,) * 3})
    assert (heads_of(loaded.cfg), loaded.preprocess_cfg) == ((4, 8), pixels)
    with pytest.raises(ConfigError, match=r"the image tower of .* is 32 wide, which 3 heads do not divide"):
        load(tiny / "tiny.pt", quick_gelu=False, heads=3)


def test_a_file_that_says_its_preprocessing_must_not_be_contradicted(tiny: Path) -> None:
    save_module(
        Exportable(weights(tiny_cfg()), tiny_cfg(), PreprocessCfg(size=32)), tiny / "ours.pt", "safetensors"
    )
    assert load(tiny / "ours.pt", preprocess="openai").preprocess_cfg == PreprocessCfg(size=32)
    with pytest.raises(ConfigError, match="preprocess= says otherwise"):
        load(tiny / "ours.pt", preprocess={"mean": (0.5,) * 3})


def test_a_bare_file_under_an_architectures_name_says_what_was_assumed(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(f"tiny:{tiny}/tiny.pt")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("oneclip", logging.WARNING)
    assert record.getMessage() == (
        f"{tiny}/tiny.pt does not say what it is: GELU, 2 and 2 heads, preprocessing are taken from tiny"
    )


def test_it_is_one_line_on_stderr(tiny: Path) -> None:
    program = (
        "from tiny import tiny_cfg; from oneclip.zoo import catalogue; import oneclip\n"
        f"catalogue._rows()['tiny'] = tiny_cfg().to_dict(); oneclip.load('tiny:{tiny}/tiny.pt', device='cpu')"
    )
    done = programs.run(["-c", program])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{tiny}/tiny.pt does not say what it is: GELU, 2 and 2 heads")


FORMS = {"safetensors": "m.safetensors", "open_clip": "folder", "transformers": "folder", "pt": "m.pt"}
WEIGHTS = {"open_clip": "open_clip_model.safetensors", "transformers": "model.safetensors"}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("moved", [True, False])
def test_files_that_we_write_say_their_activation_and_their_heads(
    tiny: Path, form: str, moved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nothing lies beside them, and under the name of an architecture that has their shapes."""
    cfg = tiny_cfg(quick_gelu=True)
    cfg.vision_cfg.head_width, cfg.text_cfg.heads = 8, 4
    path = tiny / FORMS[form]
    save_module(
        Exportable(weights(cfg), cfg, PreprocessCfg(size=32)), path, "safetensors" if form == "pt" else form
    )
    file = path / WEIGHTS[form] if form in WEIGHTS else path
    if moved:
        file = file.rename(tiny / f"elsewhere{file.suffix}")
    assert load(file).cfg == cfg
    assert caplog.records == []
    with pytest.raises(
        ConfigError, match=r"tiny \(text_cfg\.heads, vision_cfg\.head_width differ\): load it as"
    ):
        load(f"tiny:{file}")
    same = tiny_cfg()
    save_module(Exportable(weights(same), same, PreprocessCfg(size=32)), tiny / "same.pt", "safetensors")
    assert load(f"tiny:{tiny}/same.pt").cfg == same


def test_a_configuration_must_not_contradict_the_file_beside_it(tiny: Path) -> None:
    save_module(
        Exportable(weights(tiny_cfg()), tiny_cfg(), PreprocessCfg(size=32)), tiny / "out", "open_clip"
    )
    config = tiny / "out" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"head_width": 16', '"head_width": 32'))
    with pytest.raises(
        ConfigError, match=r"2 heads in its image tower by its own metadata, and 1 by open_clip_config"
    ):
        load(tiny / "out")
