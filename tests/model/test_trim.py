"""Trimming of texts: the features stay the same, and texts stay whole where a cut would change them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from unseen_hooks import unseen

import open_clip.torchscript  # noqa: F401  # lets torch.jit.script compile the models
from oneclip import zoo
from oneclip.config import CLIPTextCfg
from oneclip.model import CLIP, CustomTextCLIP, TextTransformer, build_text_tower

VIT = {"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 32}
SMALL = CLIPTextCfg(context_length=24, vocab_size=100, width=32, heads=2, layers=2)
NATIVE = [name for name in zoo.architectures() if not zoo.architecture(name).text_cfg.hf_model_name]


def shrunk(cfg: CLIPTextCfg) -> CLIPTextCfg:
    """The same pooling, masks and lengths in a tower that is small otherwise."""
    return replace(cfg, width=32, heads=2, layers=2, vocab_size=max(cfg.eos_id + 1, 120))


def trims(cfg: CLIPTextCfg) -> bool:
    return cfg.embed_cls or (not cfg.no_causal_mask and cfg.pool_type in ("argmax", "eos", "first"))


def end_of_text(cfg: CLIPTextCfg) -> int:
    return cfg.eos_id if cfg.pool_type == "eos" else cfg.vocab_size - 1


def short_captions(cfg: CLIPTextCfg, lengths: tuple[int, ...] = (3, 5, 9)) -> Tensor:
    """A row for each length, the end of text included."""
    text = torch.full((len(lengths), cfg.context_length), cfg.pad_id)
    for row, length in enumerate(lengths):
        text[row, : length - 1] = (
            1 + torch.arange(length - 1) % 90 + (1 if cfg.eos_id < 90 else 0) * cfg.eos_id
        )
        text[row, length - 1] = end_of_text(cfg)
    return text


def full_captions(cfg: CLIPTextCfg) -> Tensor:
    return short_captions(cfg, (cfg.context_length, 4))


def random_ids(cfg: CLIPTextCfg) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, cfg.vocab_size, (4, cfg.context_length), generator=generator)


@contextmanager
def computed(tower: nn.Module) -> Iterator[list[int]]:
    """The lengths of the sequences that go through the transformer, as if the hook that counts were not there."""
    lengths: list[int] = []
    with unseen(tower.transformer, lambda _, given: lengths.append(given[0].shape[1])):
        yield lengths


@cache
def outcome(cfg_as_text: str) -> tuple[bool, float]:
    """Whether short captions were cut, and the greatest difference that cutting made to any captions."""
    cfg = CONFIGURATIONS[cfg_as_text]
    torch.manual_seed(0)
    tower = build_text_tower(16, replace(cfg, output_tokens=False)).eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.2)
    difference, lengths = 0.0, []
    with torch.no_grad():
        for text in (short_captions(cfg), full_captions(cfg), random_ids(cfg)):
            whole, _ = tower._encode(text)
            with computed(tower) as seen:
                features = tower(text)
            difference = max(difference, float((features - whole).abs().max() / whole.abs().max()))
            lengths += seen
    return lengths[0] < lengths[1], difference


CONFIGURATIONS = {repr(cfg): cfg for cfg in (shrunk(zoo.architecture(name).text_cfg) for name in NATIVE)}


def test_the_zoo_has_the_published_number_of_text_towers_that_trim() -> None:
    towers = [zoo.architecture(name).text_cfg for name in NATIVE]
    assert len([cfg for cfg in towers if trims(cfg) and cfg.pool_type in ("argmax", "eos")]) == 95
    assert len([cfg for cfg in towers if cfg.embed_cls]) == 3
    assert len([cfg for cfg in towers if cfg.no_causal_mask]) == 39


@pytest.mark.parametrize("name", NATIVE)
def test_trimming_changes_no_features_of_any_published_text_tower(name: str) -> None:
    cfg = shrunk(zoo.architecture(name).text_cfg)
    trimmed, difference = outcome(repr(cfg))
    assert trimmed == trims(cfg)
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({}, 9),
        ({"pool_type": "eos", "eos_id": 99}, 9),
        ({"pool_type": "first"}, 1),
        ({"pool_type": "last"}, 24),
        ({"pool_type": "none"}, 24),
        ({"no_causal_mask": True}, 24),
        ({"embed_cls": True}, 11),  # the first padding, which the class token sees, and that token itself
        ({"output_tokens": True}, 24),
    ],
)
def test_only_positions_up_to_the_last_pooled_one_are_computed(changes: dict, length: int) -> None:
    cfg = replace(SMALL, **changes)
    model = CustomTextCLIP(16, VIT, cfg).eval()
    with computed(model.text) as lengths:
        model.encode_text(short_captions(cfg))
    assert lengths == [length]


def whole_rows(tower: TextTransformer, text: Tensor) -> Tensor:
    """Captions filled up to the context, not cut."""
    rows = torch.full((len(text), tower.context_length), tower.pad_id)
    rows[:, : text.shape[1]] = text
    return tower._encode(rows)[0]


@pytest.mark.parametrize("pad_id", [0, 7])
@pytest.mark.parametrize("correct_cls_mask", [False, True])
@pytest.mark.parametrize("no_causal_mask", [False, True])
def test_a_class_token_sees_the_same_of_a_caption_however_long_its_row_is(
    pad_id: int, correct_cls_mask: bool, no_causal_mask: bool
) -> None:
    torch.manual_seed(0)
    cfg = replace(SMALL, embed_cls=True, pad_id=pad_id, no_causal_mask=no_causal_mask)
    tower = build_text_tower(16, cfg).eval()
    tower.correct_cls_mask = correct_cls_mask
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.2)
    text = short_captions(cfg, (3, 5, 12))
    text[0, 1] = text[2, 6] = (
        pad_id  # padding inside a caption: byte-level vocabularies give its id to a character
    )
    whole = whole_rows(tower, text)
    for length in (12, 13, 14, 23, 24):
        assert (tower(text[:, :length]) - whole).abs().max() < 1e-6 * whole.abs().max()
    for ids in (full_captions(cfg), text[:1], torch.full((2, 24), pad_id), text[:, :1]):
        assert (tower(ids) - (whole := whole_rows(tower, ids))).abs().max() < 1e-6 * whole.abs().max()


def test_the_flat_model_computes_the_same_length() -> None:
    model = CLIP(16, VIT, SMALL).eval()
    with computed(model) as lengths:
        model.encode_text(short_captions(SMALL))
        model(text=short_captions(SMALL, (4,)))
    assert lengths == [9, 4]


def test_with_a_padding_mask_all_positions_are_computed() -> None:
    tower = TextTransformer(24, 100, 32, 2, 2, no_causal_mask=True, use_pad_mask=True).eval()
    with computed(tower) as lengths:
        tower(short_captions(SMALL))
    assert lengths == [24]


def test_ids_behind_the_argmax_do_not_matter() -> None:
    text = torch.tensor([[98, 5, 99, 7, 8, 9, 10]])
    model = CLIP(16, VIT, SMALL).eval()
    assert model.trim(text).shape[1] == 3
    torch.testing.assert_close(model.encode_text(text), model._encode(text)[0])


def test_without_an_end_of_text_the_first_token_is_pooled() -> None:
    cfg = replace(SMALL, pool_type="eos", eos_id=99)
    model = CLIP(16, VIT, cfg).eval()
    text = torch.tensor([[98, 5, 6, 7]])
    assert model.trim(text).shape[1] == 1
    torch.testing.assert_close(model.encode_text(text), model._encode(text)[0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_both_widths_of_ids_are_trimmed(dtype: torch.dtype) -> None:
    model = CLIP(16, VIT, SMALL).eval()
    assert model.trim(short_captions(SMALL).to(dtype)).shape[1] == 9


def test_gradients_are_those_of_the_whole_caption() -> None:
    torch.manual_seed(0)
    model = CLIP(16, VIT, SMALL)
    model.encode_text(short_captions(SMALL)).square().sum().backward()
    trimmed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model._encode(short_captions(SMALL))[0].square().sum().backward()
    for name, gradient in trimmed.items():
        whole = model.get_parameter(name).grad
        assert (gradient - whole).norm() < 1e-5 * whole.norm(), name


def test_intermediates_are_of_all_positions() -> None:
    model = CLIP(16, VIT, SMALL).eval()
    seen = model.forward_intermediates(text=short_captions(SMALL))
    assert seen["text_intermediates"][0].shape == (3, 24, 32)
    torch.testing.assert_close(
        seen["text_features"], model.encode_text(short_captions(SMALL), normalize=True), rtol=1e-4, atol=1e-5
    )


class EncodeText(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: Tensor) -> Tensor:
        return self.model.encode_text(text)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_a_graph_recorded_on_short_captions_serves_long_ones(kind: type) -> None:
    model = EncodeText(kind(16, VIT, SMALL)).eval()
    short, full = short_captions(SMALL, (3, 4)), full_captions(SMALL)
    with torch.no_grad():
        expected = model(full)
        recorded = {
            "tracing": torch.jit.trace(model, short),
            "export": torch.export.export(model, (short,)).module(),
            "compilation": torch.compile(model, backend="eager", fullgraph=True),
        }
        for way, graph in recorded.items():
            graph(short)
            torch.testing.assert_close(graph(full), expected, msg=lambda m, way=way: f"{way}: {m}")


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_a_script_computes_all_positions_and_takes_any_length(kind: type) -> None:
    model = kind(16, VIT, SMALL).eval()
    script = torch.jit.script(model)
    assert "trim" not in script.code
    with torch.no_grad():
        for text in (short_captions(SMALL), full_captions(SMALL), short_captions(SMALL)[:1, :5]):
            torch.testing.assert_close(
                script.encode_text(text), model.encode_text(text), rtol=1e-4, atol=1e-5
            )


def test_fake_and_meta_ids_have_no_length_to_find() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert CLIP(16, VIT, SMALL).encode_text(torch.zeros(2, 24, dtype=torch.long)).shape == (2, 16)
    with torch.device("meta"):
        assert CLIP(16, VIT, SMALL).encode_text(torch.zeros(2, 24, dtype=torch.long)).shape == (2, 16)
