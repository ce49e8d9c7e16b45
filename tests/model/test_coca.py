"""CoCa: what it gives, what it refuses, and how it writes captions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unseen_hooks import unseen

import open_clip.torchscript  # noqa: F401  # lets torch.jit.script compile the models
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.errors import ConfigError, ShapeError, TokenRangeError
from oneclip.model import CoCa, build_model
from oneclip.model.generation.kv_cache import CachedReader, FullReader

START, END = 22, 23
WIDTHS = {"context_length": 16, "vocab_size": 24, "width": 32, "heads": 2, "layers": 2}
TEXT = {**WIDTHS, "embed_cls": True, "output_tokens": True}
VISION = {
    "image_size": 16,
    "patch_size": 8,
    "layers": 1,
    "width": 32,
    "head_width": 16,
    "output_tokens": True,
    "attentional_pool": True,
    "attn_pooler_heads": 2,
    "attn_pooler_queries": 5,
}
IDS = {"sot_token_id": START, "eos_token_id": END}
SEARCH = {**IDS, "seq_len": 12}


def make(vision: dict = VISION, text: dict = TEXT, decoder: dict = WIDTHS, **options: Any) -> CoCa:
    """A model whose weights are large enough for captions to differ."""
    torch.manual_seed(0)
    model = CoCa(32, decoder, text, vision, **options).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.6 if "embedding" in name else 0.25)
    return model


@pytest.fixture(scope="module")
def model() -> CoCa:
    return make()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def captions(*lengths: int, width: int = 16) -> Tensor:
    """A row for each length, start and end included."""
    text = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        text[row, :length] = torch.tensor([START, *(1 + (row + i) % 20 for i in range(length - 2)), END])
    return text


@contextmanager
def calls(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what goes into a module, as if the hook that counts were not there."""
    shapes: list[tuple[int, ...]] = []
    with unseen(module, lambda _, given: shapes.append(tuple(given[0].shape))):
        yield shapes


# ------------------------------------------------------------------------------------------------- the model


def test_a_configuration_with_a_decoder_is_built_as_a_coca() -> None:
    towers = CLIPVisionCfg.from_dict(VISION), CLIPTextCfg.from_dict(TEXT)
    built = build_model(ModelCfg(32, *towers, multimodal_cfg=MultimodalCfg.from_dict(WIDTHS)))
    assert isinstance(built, CoCa)
    assert built.context_length == 16
    assert built.vocab_size == 24


def test_features_have_unit_length_by_default(model: CoCa) -> None:
    for features in (model.encode_image(images()), model.encode_text(captions(5, 9))):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    raw = model.encode_image(images=images(), normalize=False)
    assert (raw.norm(dim=-1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("lengths", [(5, 9), (16, 4), (15, 15), (2, 2)])
def test_short_texts_are_trimmed_and_keep_their_features(model: CoCa, lengths: tuple[int, ...]) -> None:
    text = captions(*lengths)
    with torch.no_grad(), calls(model.text.transformer) as shapes:
        features = model.encode_text(text)
        whole = model(images(), text)["text_features"]
    assert (features - whole).abs().max() < 1e-6
    longest = max(lengths)
    # one padding is kept, and the class token comes last
    assert [shape[1] for shape in shapes] == [min(longest + 1, 16) + 1, 17]


def test_tokens_are_those_of_every_position(model: CoCa) -> None:
    output = model(images(), captions(5, 9))
    assert output["logits"].shape == (2, 15, 24)
    assert torch.equal(output["labels"], captions(5, 9)[:, 1:])
    assert model(images(), captions(5, 9), output_labels=False)["logits"].shape == (2, 16, 24)


def test_a_short_row_means_padding(model: CoCa) -> None:
    with torch.no_grad():
        expected = model.encode_text(captions(5, 7))
        for width in (7, 8, 12):
            assert (model.encode_text(captions(5, 7, width=width)) - expected).abs().max() < 1e-6
            features = model(images(), captions(5, 7, width=width))["text_features"]
            assert (features - expected).abs().max() < 1e-6


def test_no_token_sees_what_follows_it(model: CoCa) -> None:
    text, other = captions(9, 9), captions(9, 9)
    other[:, 6:] = 3
    with torch.no_grad():
        logits, changed = (model(images(), ids, output_labels=False)["logits"] for ids in (text, other))
    torch.testing.assert_close(logits[:, :6], changed[:, :6], rtol=0, atol=1e-5)
    assert (logits[:, 6:] - changed[:, 6:]).abs().max() > 1e-2


def test_cascaded_pools_caption_too() -> None:
    cascade = make({**VISION, "attentional_pool": "cascade"})
    assert cascade(images(), captions(4, 6))["logits"].shape == (2, 15, 24)


@pytest.mark.parametrize(
    ("vision", "text", "tower"),
    [
        ({**VISION, "output_tokens": False}, TEXT, "visual"),
        ({"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, TEXT, "visual"),
        (VISION, {**TEXT, "output_tokens": False}, "text"),
    ],
)
def test_a_tower_that_returns_no_tokens_is_rejected(vision: dict, text: dict, tower: str) -> None:
    with pytest.raises(ConfigError, match=f"the tokens of the {tower} tower"):
        make(vision, text)


def test_tokens_of_another_width_are_rejected(model: CoCa) -> None:
    with pytest.raises(ShapeError, match=r"tokens of images \(B, L, 32\); found \(2, 5, 16\)"):
        model.text_decoder(torch.zeros(2, 5, 16), torch.zeros(2, 3, 32))


def test_a_caption_without_an_image_is_rejected(model: CoCa) -> None:
    with pytest.raises(ShapeError, match="both their features and their tokens"):
        model(None, captions(4, 6))


def test_initial_weights_are_finite_and_small() -> None:
    decoder = CoCa(32, WIDTHS, TEXT, VISION).text_decoder
    for name, parameter in decoder.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() < 2, name


def test_a_script_gives_the_same_numbers(model: CoCa) -> None:
    with torch.no_grad():
        found = torch.jit.script(model)(images(), captions(5, 9))
        expected = model(images(), captions(5, 9))
    assert set(found) == set(expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


# --------------------------------------------------------------------------------------- the key/value cache


READERS = {
    "class token": TEXT,
    "no class token": {**TEXT, "embed_cls": False},
    "other padding": {**TEXT, "pad_id": 7},
    "custom blocks": {
        **TEXT,
        "scale_attn": True,
        "scale_heads": True,
        "scale_attn_inner": True,
        "qk_norm": True,
    },
    "cosine": {**TEXT, "scaled_cosine_attn": True, "ls_init_value": 0.5},
}


@pytest.mark.parametrize("name", READERS)
def test_the_cache_returns_the_logits_of_a_full_pass(name: str) -> None:
    text = READERS[name]
    model = make(text=text, decoder={**WIDTHS, "layers": 3, "ls_init_value": 0.5})
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(
        0, 24, (6, 16), generator=generator
    )  # three captions of each image, padding among them
    ids[0, 3] = ids[4, 7] = text.get("pad_id", 0)
    ids[:, 0] = START
    with torch.no_grad():
        _, image_embs = model._encode_image(images(), normalize=False)
        cached, whole = (
            reader(model.text, model.text_decoder, image_embs) for reader in (CachedReader, FullReader)
        )
        for length in (1, 2, 5, 6, 9, 16):
            found, expected = cached.logits(ids[:, :length]), whole.logits(ids[:, :length])
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), length
            rows = torch.tensor([1, 1, 0, 5, 3, 3])
            ids = torch.cat([ids[rows, :length], ids[:, length:]], dim=1)
            cached.reorder(rows)


def test_the_cache_is_cleared_when_the_window_moves(model: CoCa) -> None:
    ids = captions(16, 15)
    with torch.no_grad():
        _, image_embs = model._encode_image(images(), normalize=False)
        cached, whole = (
            reader(model.text, model.text_decoder, image_embs) for reader in (CachedReader, FullReader)
        )
        for end in (3, 4, 5, 6, 7):
            window = ids[:, max(0, end - 4) : end]
            torch.testing.assert_close(cached.logits(window), whole.logits(window), rtol=1e-5, atol=1e-5)


def test_a_step_computes_the_new_token_only(model: CoCa) -> None:
    block = model.text_decoder.resblocks[0]
    with calls(block.ln_1) as shapes, calls(model.visual) as seen:
        model.generate(images(), **SEARCH, generation_type="top_k", min_seq_len=11, pad_token_id=99)
    assert shapes == [(2, 1, 32)] * 10
    assert seen == [(2, 3, 16, 16)]


# -------------------------------------------------------------------------------------------------- searching


def test_groups_find_what_one_group_of_their_size_finds(model: CoCa) -> None:
    groups = model.generate(images(4), **SEARCH, num_beams=6, num_beam_groups=3)
    assert torch.equal(groups, model.generate(images(4), **SEARCH, num_beams=2, num_beam_groups=1))


def test_a_beam_search_rejects_logit_processors(model: CoCa) -> None:
    ends = {"sot_token_id": START, "eos_token_id": END, "num_beam_groups": 1}
    with pytest.raises(ConfigError, match="logit_processor"):
        model._generate_beamsearch(images(), **ends, logit_processor=[])
    found = model._generate_beamsearch(images(), 0, **ends)
    assert torch.equal(found, model.generate(images(), pad_token_id=0, **ends))


@pytest.mark.parametrize("kind", ["beam_search", "top_k"])
def test_one_beam_is_greedy(model: CoCa, kind: str) -> None:
    found = model.generate(
        images(4), **SEARCH, generation_type=kind, num_beams=1, num_beam_groups=1, min_seq_len=11
    )
    with torch.no_grad():
        ids = torch.full((4, 1), START)
        while ids.shape[1] < 11:
            logits = model(images(4), ids, output_labels=False)["logits"][:, -1]
            logits[:, END] = -torch.inf
            ids = torch.cat([ids, logits.argmax(dim=1)[:, None]], dim=1)
    ended = (ids[:, 1:] == 0).int().cumsum(
        1
    ) > 0  # a token that looks like padding ends a caption that is drawn
    rows = ~ended.any(dim=1) if kind == "top_k" else slice(None)
    assert torch.equal(found[rows, :11], ids[rows])


def test_beam_search_with_room_for_everything_finds_the_best_of_all(model: CoCa) -> None:
    found = model.generate(
        images(1), **IDS, seq_len=3, min_seq_len=1, num_beams=23, num_beam_groups=1, repetition_penalty=1.0
    )
    with torch.no_grad():
        first = model(images(1), torch.tensor([[START]]), output_labels=False)["logits"][0, -1]
        begun = torch.tensor([[START, token] for token in range(24)])
        second = model(images(1).expand(24, -1, -1, -1), begun, output_labels=False)["logits"][:, -1]
    best = {(START, END): first[END] / 2}
    for token in range(23):
        for last in range(24):
            best[START, token, last] = (first[token] + second[token, last]) / 3
    winner = max(best, key=best.__getitem__)
    assert tuple(found[0].tolist())[: len(winner)] == winner


@pytest.mark.parametrize("kind", ["beam_search", "top_k", "top_p"])
def test_every_caption_starts_with_its_prompt(model: CoCa, kind: str) -> None:
    prompt = torch.tensor([[START, 4, 9]])
    of_both = model.generate(images(), prompt, **SEARCH, generation_type=kind)
    assert of_both[:, :3].tolist() == [[START, 4, 9]] * 2
    several = model.generate(
        images(1), torch.tensor([[START, 4], [START, 8], [START, 2]]), **SEARCH, generation_type=kind
    )
    assert several[:, 1].tolist() == [4, 8, 2]
    assert model.generate(images(1), prompt[0], **SEARCH, generation_type=kind).ndim == 1


def test_one_prompt_for_all_images_equals_a_prompt_for_each(model: CoCa) -> None:
    prompt = torch.tensor([[START, 4, 9]])
    together = model.generate(images(), prompt, **SEARCH)
    assert torch.equal(together, model.generate(images(), prompt.expand(2, -1), **SEARCH))


@pytest.mark.parametrize("kind", ["beam_search", "top_k"])
def test_captions_may_be_longer_than_what_is_read(model: CoCa, kind: str) -> None:
    options = {
        "generation_type": kind,
        "min_seq_len": 28,
        "pad_token_id": 99,
        "num_beams": 2,
        "num_beam_groups": 1,
    }
    for window in (5, 77):
        ids = model.generate(images(), **IDS, seq_len=30, max_seq_len=window, **options)
        assert ids.shape[1] == 30
        assert not (ids[:, :28] == END).any()


@pytest.mark.parametrize("kind", ["beam_search", "top_k", "top_p"])
def test_a_fixed_length_is_kept_with_criteria_of_ones_own(model: CoCa, kind: str) -> None:
    never = [lambda ids, scores: False]
    options = {"generation_type": kind, "fixed_output_length": True, "min_seq_len": 1}
    assert model.generate(images(), **SEARCH, **options).shape == (2, 12)
    # nothing stops the search but what the model can read, and there is room for the end of text
    assert 12 <= model.generate(images(), **SEARCH, **options, stopping_criteria=never).shape[1] <= 17


def test_training_modes_are_restored_after_an_error() -> None:
    model = make().train()
    model.visual.eval()  # a frozen tower
    modes = [module.training for module in model.modules()]

    def fail(ids: Tensor, scores: None) -> bool:
        assert not model.training
        raise RuntimeError("stop")

    for kind in ("beam_search", "top_k"):
        model.generate(images(), **SEARCH, generation_type=kind)
        with pytest.raises(RuntimeError, match="stop"):
            model.generate(images(), **SEARCH, generation_type=kind, stopping_criteria=[fail])
        assert [module.training for module in model.modules()] == modes


def test_no_gradients_are_recorded(model: CoCa) -> None:
    assert not model.generate(images(), **SEARCH).requires_grad


def test_captions_in_half_precision_have_the_same_form() -> None:
    half = make().to(torch.bfloat16)
    for kind in ("beam_search", "top_k"):
        ids = half.generate(images().bfloat16(), **SEARCH, generation_type=kind)
        assert ids.dtype == torch.long
        assert ids[:, 0].tolist() == [START, START]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_type": "greedy"}, "expected one of beam_search, top_p, top_k"),
        ({"min_seq_len": 12}, "seq_len must be more than min_seq_len; found 12 and 12"),
        ({"num_beams": 4}, "4 beams cannot be split into 3 groups"),
        ({"generation_type": "top_k", "top_k": 0}, "top_k is 0"),
        ({"generation_type": "top_p", "top_p": 1.5}, "top_p is 1.5"),
        ({"generation_type": "top_k", "temperature": 0.0}, "temperature is 0.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"max_seq_len": 0}, "max_seq_len is 0"),
        ({"eos_token_id": []}, "eos_token_id is empty"),
        ({"text": torch.full((2, 12), START)}, "up to 12 tokens cannot begin with 12"),
        ({"text": torch.full((2, 40), START)}, "up to 12 tokens cannot begin with 40"),
    ],
)
def test_contradicting_arguments_are_rejected(model: CoCa, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.generate(images(), **{**SEARCH, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sot_token_id": None},
            "token id 49406 in the prompt is outside the vocabulary, whose ids are 0 to 23",
        ),
        ({"eos_token_id": None}, "token id 49407 in eos_token_id"),
        ({"text": torch.tensor([[START, -1]])}, "token id -1 in the prompt"),
    ],
)
def test_ids_of_another_vocabulary_are_rejected(model: CoCa, options: dict, message: str) -> None:
    with pytest.raises(TokenRangeError, match=message):
        model.generate(images(), **{**SEARCH, **options})


@pytest.mark.parametrize("shape", [(3, 2), (2, 0), (1, 2, 2)])
def test_prompts_that_do_not_fit_the_images_are_rejected(model: CoCa, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="2 images need as many prompts of ids"):
        model.generate(images(), torch.ones(shape, dtype=torch.long), **SEARCH)
