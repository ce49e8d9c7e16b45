"""Differences from open_clip_torch 3.3.0 and OpenAI's package that docs/compatibility.md lists."""

import re
from pathlib import Path

import pytest
import torch
from small_clip import MODELS, random_model, save_state_dict
from torch import Tensor

import clip
import open_clip
from oneclip.errors import ConfigError, ShapeError
from oneclip.model import TextTransformer

ROOT = Path(__file__).resolve().parents[2]
VIT = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 64, "head_width": 32}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 120, "width": 64, "heads": 2, "layers": 3}
ATTENTIONAL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5}


def model_of(
    vision: dict = VIT, text: dict = TEXT, kind: type = open_clip.CLIP, **options: object
) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(64, vision, text, **options).eval()


def image() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def ids(length: int = 16) -> Tensor:
    text = torch.zeros(3, length, dtype=torch.long)
    text[:, 0], text[:, 1], text[:, 3] = 118, torch.tensor([5, 6, 7]), 119
    return text


def trainable(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_texts_may_be_shorter_than_the_context() -> None:
    model = model_of()
    torch.testing.assert_close(model.encode_text(ids(5)), model.encode_text(ids()))


def test_longer_texts_and_other_image_sizes_are_named() -> None:
    with pytest.raises(ShapeError, match="up to 16"):
        model_of().encode_text(ids(17))
    with pytest.raises(ShapeError, match=r"\(B, 3, 32, 32\)"):
        model_of().encode_image(torch.zeros(1, 3, 40, 32))


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_stopping_early_leaves_features_those_of_the_whole_model(vision: dict) -> None:
    model = model_of(vision)
    with torch.no_grad():
        seen = model.forward_intermediates(
            image(), ids(), image_indices=[0], text_indices=[0], stop_early=True
        )
        torch.testing.assert_close(seen["image_features"], model.encode_image(image(), normalize=True))
        torch.testing.assert_close(seen["text_features"], model.encode_text(ids(), normalize=True))


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_stopping_early_stops_both_towers(kind: type) -> None:
    model = model_of(kind=kind)
    ran: list[str] = []
    for name, module in model.named_modules():
        if re.search(r"resblocks\.\d$", name):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.forward_intermediates(
        image(), ids(), image_indices=[0], text_indices=[1], stop_early=True, intermediates_only=True
    )
    assert [name[-1] for name in ran] == ["0", "0", "1"]


@pytest.mark.parametrize("indices", [None, 1, 2, [0], [2], [0, -1]])
def test_a_resnet_gives_any_of_its_stages_with_its_features(indices: int | list[int] | None) -> None:
    model = model_of(RESNET)
    with torch.no_grad():
        seen = model.forward_intermediates(image(), image_indices=indices, normalize=False)
        torch.testing.assert_close(seen["image_features"], model.encode_image(image()))
    count = 5 if indices is None else indices if isinstance(indices, int) else len(indices)
    assert len(seen["image_intermediates"]) == count


def test_a_resnet_gives_tokens() -> None:
    model = model_of(RESNET)
    with torch.no_grad():
        maps = model.forward_intermediates(image())["image_intermediates"]
        tokens = model.forward_intermediates(image(), image_output_fmt="NLC")["image_intermediates"]
    for a, b in zip(maps, tokens, strict=True):
        torch.testing.assert_close(b, a.flatten(2).transpose(1, 2))


def test_a_resnet_is_locked_in_part() -> None:
    model = model_of(RESNET)
    model.lock_image_tower(unlocked_groups=2)
    assert {name.split(".")[0] for name in trainable(model.visual)} == {"layer4", "attnpool"}


def test_a_resnet_frees_memory_by_checkpointing() -> None:
    def kept(checkpointing: bool) -> int:
        model, sizes = model_of(RESNET).train(), []
        model.set_grad_checkpointing(checkpointing)

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(
                tensor.numel() if tensor.ndim == 4 and tensor.shape[0] == 2 else 0
            )  # a map of the batch
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.encode_image(image())
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_a_frozen_batch_norm_keeps_its_names() -> None:
    model = model_of(RESNET)
    names = set(model.state_dict())
    model.lock_image_tower(freeze_bn_stats=True)
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_norms_can_stay_trainable_in_a_locked_text_tower(kind: type) -> None:
    model = model_of(kind=kind)
    model.lock_text_tower(unlocked_layers=1, freeze_layer_norm=False)
    of_text = {name for name in trainable(model) if not name.startswith(("visual.", "logit"))}
    assert {name for name in of_text if "ln_" not in name} == {
        n for n in of_text if n.endswith("text_projection")
    }
    assert len(of_text) == 1 + 2 * (2 * 3 + 1)


def test_attentional_pools_are_unlocked_with_the_last_block() -> None:
    model = model_of({**VIT, **ATTENTIONAL})
    model.lock_image_tower(unlocked_groups=1)
    assert not any("attn_pool" in name for name in trainable(model.visual))
    model.lock_image_tower(unlocked_groups=2)
    assert any("attn_pool" in name for name in trainable(model.visual))


def test_sin_cos_positions_are_never_trainable_and_fit_any_grid() -> None:
    model = model_of({**VIT, "pos_embed_type": "sin_cos_2d", "image_size": (32, 48)})
    model.lock_image_tower(unlocked_groups=99)
    assert "positional_embedding" not in trainable(model.visual)
    assert model.visual.positional_embedding.shape == (1 + 4 * 6, 64)


@pytest.mark.parametrize("part", ["vision", "text"])
def test_scaled_cosine_attention_works(part: str) -> None:
    switches = {"scaled_cosine_attn": True}
    model = model_of(**{part: {**(VIT if part == "vision" else TEXT), **switches}})
    tower = model.visual.transformer if part == "vision" else model.transformer
    attention, x = tower.resblocks[0].attn, torch.randn(2, 5, 64)
    with torch.no_grad():
        attention.in_proj_bias.normal_()
        q, k, v = (
            t.reshape(2, 5, 2, 32)
            for t in (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
        )
        cosine = torch.nn.functional.cosine_similarity(q[:, :, None], k[:, None], dim=-1)  # (B, L, S, H)
        weights = (10 * cosine).softmax(dim=2)
        expected = attention.out_proj(torch.einsum("blsh,bshe->blhe", weights, v).reshape(2, 5, 64))
        torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_cascaded_pools_work() -> None:
    vision = {**VIT, **ATTENTIONAL, "attentional_pool": "cascade", "output_tokens": True, "width": 128}
    pooled, tokens = model_of(vision).visual(image())
    assert pooled.shape == (2, 1, 64)  # as in parallel
    assert tokens.shape == (2, 5, 64)


@pytest.mark.parametrize("part", ["vision", "text"])
def test_custom_blocks_can_be_checkpointed(part: str) -> None:
    options = {part: {**(VIT if part == "vision" else TEXT), "qk_norm": True}}
    gradients = []
    for checkpointing in (False, True):
        model = model_of(**options)
        model.set_grad_checkpointing(checkpointing)
        (model.encode_image(image()).square().sum() + model.encode_text(ids()).square().sum()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_towers_that_give_tokens_give_features_to_the_model(kind: type) -> None:
    model = model_of({**VIT, "output_tokens": True}, {**TEXT, "output_tokens": True}, kind)
    image_features, text_features, _ = model(image(), ids())
    assert image_features.shape == (2, 64)
    assert text_features.shape == (3, 64)
    assert len(model.encode_image(image())) == 2  # as in the published package


def test_a_text_tower_returns_intermediates_without_a_format() -> None:
    tower = TextTransformer(**TEXT)
    assert len(tower.forward_intermediates(ids())["text_intermediates"]) == 3


def test_a_block_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="numbered 0 to 2"):
        model_of().forward_intermediates(image(), image_indices=[3])


def test_a_configuration_with_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="did you mean patch_size"):
        model_of({**VIT, "patch_sise": 8})


def test_tokens_are_int64_in_both_packages() -> None:
    assert clip.tokenize("a dog").dtype == open_clip.tokenize("a dog").dtype == torch.int64


def test_int32_ids_give_the_same_features() -> None:
    model = random_model()
    torch.testing.assert_close(
        model.encode_text(clip.tokenize("a dog").int()), model.encode_text(clip.tokenize("a dog"))
    )


def test_fp32_weights_are_not_rounded_on_the_cpu(tmp_path: Path) -> None:
    expected = save_state_dict(tmp_path / "model.pt")
    model, _ = clip.load(tmp_path / "model.pt", device="cpu")
    assert torch.equal(model.text_projection, expected.text_projection)


def test_openais_models_take_texts_shorter_than_the_context() -> None:
    model = random_model(MODELS["resnet"])
    tokens = clip.tokenize(["a dog", "a cat"])
    torch.testing.assert_close(model.encode_text(tokens[:, :6]), model.encode_text(tokens))


def test_each_listed_difference_names_an_existing_test() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith(("| published", "| --"))
    ]
    named = [set(re.findall(r"`(test_\w+)`", row)) for row in rows]
    assert rows
    assert all(named), [row for row, names in zip(rows, named, strict=True) if not names]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = {name for names in named for name in names if f"def {name}(" not in tests}
    assert not missing
