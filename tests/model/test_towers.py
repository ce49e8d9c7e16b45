"""Both main towers: outputs, locks, gradient checkpointing, and errors on bad input."""

import pytest
import torch
from torch import Tensor, nn

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError, ShapeError, TokenRangeError
from oneclip.model import CLIP, CustomTextCLIP, build_model, build_visual_tower

VIT = {"image_size": 32, "patch_size": 16, "layers": 3, "width": 64, "head_width": 32}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
SIGLIP = {**VIT, "pool_type": "map"}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 3}


def make(
    kind: type = CLIP, vision: dict = VIT, text: dict = TEXT, **options: object
) -> CLIP | CustomTextCLIP:
    torch.manual_seed(0)
    return kind(24, vision, text, **options)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def texts() -> Tensor:
    text = torch.zeros(2, 16, dtype=torch.long)
    text[0, :4] = torch.tensor([98, 5, 6, 99])
    text[1, :7] = torch.tensor([98, 5, 6, 7, 8, 9, 99])
    return text


class EncodeText(nn.Module):
    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: Tensor) -> Tensor:
        return self.model.encode_text(text)


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_forward_gives_a_dict_or_a_tuple_by_output_dict() -> None:
    model = make(output_dict=True, init_logit_bias=-10.0)
    output = model(images(), texts())
    assert set(output) == {"image_features", "text_features", "logit_scale", "logit_bias"}
    model.output_dict = False
    assert len(model(images(), texts())) == 4
    assert len(make()(images(), texts())) == 3
    assert make()(text=texts())[0] is None


def test_features_are_of_unit_length_when_asked_for() -> None:
    features = make().encode_image(images(), normalize=True)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_an_image_of_another_size_is_rejected(vision: dict) -> None:
    with pytest.raises(ShapeError, match=r"\(B, 3, 32, 32\); found \(2, 3, 48, 48\)"):
        make(vision=vision).encode_image(torch.zeros(2, 3, 48, 48))


def test_a_text_longer_than_the_context_is_rejected() -> None:
    with pytest.raises(ShapeError, match="L from 1 up to 16"):
        make().encode_text(torch.zeros(2, 17, dtype=torch.long))


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("wrong", [-1, 100])
def test_a_token_outside_the_vocabulary_is_rejected(kind: type, wrong: int) -> None:
    text = texts()
    text[1, 2] = wrong
    with pytest.raises(
        TokenRangeError, match=f"token id {wrong} is outside the vocabulary, whose ids are 0 to 99"
    ):
        make(kind).encode_text(text)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision", {"pool_type": "max"}, "pool_type"),
        ("vision", {"attentional_pool": "serial"}, "attentional_pool"),
        ("vision", {"pos_embed_type": "rope"}, "pos_embed_type"),
        ("vision", {"head_width": 60, "width": 64, "block_type": "odd"}, "block_type"),
        ("vision", {"timm_model_name": "convnext_bose"}, "did you mean convnext_base"),
        ("text", {"pool_type": "mean"}, "pool_type"),
        ("text", {"heads": 5}, "5 heads"),
        ("text", {"proj_type": "mlp"}, "proj_type"),
        ("text", {"hf_model_name": "roberta-base"}, "Hugging Face"),
        ("text", {"qk_norm": True, "scaled_cosine_attn": True}, "choose one"),
    ],
)
def test_an_impossible_configuration_is_explained(part: str, changes: dict, message: str) -> None:
    parts = {"vision": dict(VIT), "text": dict(TEXT)}
    parts[part] |= changes
    with pytest.raises(ConfigError, match=message):
        make(**parts)


def test_a_misspelled_field_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean patch_size"):
        make(vision={**VIT, "patch_sise": 16})


def test_build_model_chooses_the_kind_by_custom_text() -> None:
    cfg = ModelCfg(24, CLIPVisionCfg.from_dict(VIT), CLIPTextCfg.from_dict(TEXT))
    assert isinstance(build_model(cfg), CLIP)
    cfg.custom_text = True
    assert isinstance(build_model(cfg), CustomTextCLIP)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 9])
def test_locking_a_resnet_leaves_its_last_groups_trainable(count: int) -> None:
    model = make(vision=RESNET)
    model.lock_image_tower(unlocked_groups=count)
    groups = [("conv", "bn"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("attnpool",)]
    expected = tuple(name for group in groups[max(0, 6 - count) :] for name in group)
    assert trainable(model.visual) == {
        n for n, _ in model.visual.named_parameters() if n.startswith(expected or ("-",))
    }


def test_frozen_batch_norms_keep_names_and_statistics() -> None:
    model = make(vision=RESNET)
    names = set(model.state_dict())
    model.lock_image_tower(unlocked_groups=1, freeze_bn_stats=True)
    assert set(model.state_dict()) == names
    before = model.visual.layer4[0].bn1.running_mean.clone()
    model.train()
    model.encode_image(images())
    torch.testing.assert_close(model.visual.layer4[0].bn1.running_mean, before)


def test_an_unlocked_stage_keeps_its_statistics_moving() -> None:
    model = make(vision=RESNET)
    model.lock_image_tower(unlocked_groups=2, freeze_bn_stats=True)
    before = model.visual.layer4[0].bn1.running_mean.clone()
    model.train()
    model.encode_image(images())
    assert not torch.equal(model.visual.layer4[0].bn1.running_mean, before)


def test_fixed_positions_stay_fixed_when_everything_is_unlocked() -> None:
    model = make(vision={**VIT, "pos_embed_type": "sin_cos_2d"})
    model.lock_image_tower(unlocked_groups=9)
    assert "positional_embedding" not in trainable(model.visual)


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_layer_norms_can_stay_trainable_in_a_locked_text_tower(kind: type) -> None:
    model = make(kind)
    model.lock_text_tower(unlocked_layers=0, freeze_layer_norm=False)
    of_text = {n for n in trainable(model) if not n.startswith("visual.") and not n.startswith("logit")}
    assert of_text
    assert all(".ln_" in f".{name}" for name in of_text)


def stored_bytes(tower: nn.Module, x: Tensor) -> int:
    """Count what a forward pass stores for the backward pass, parameters left out."""
    parameters = {parameter.data_ptr() for parameter in tower.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = tower(x)  # alive until the bytes are counted
        total = sum(sizes.values())
    del features
    return total


@pytest.mark.parametrize("vision", [VIT, RESNET, SIGLIP], ids=["vit", "resnet", "siglip"])
def test_checkpointing_stores_less_of_an_image_tower(vision: dict) -> None:
    tower = build_visual_tower(64, CLIPVisionCfg.from_dict(vision)).train()
    plain = stored_bytes(tower, images(4))
    tower.set_grad_checkpointing()
    assert stored_bytes(tower, images(4)) < plain / 2


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_checkpointing_stores_less_of_a_text_tower(kind: type) -> None:
    model = make(kind).train()
    tower = EncodeText(model)
    plain = stored_bytes(tower, texts())
    model.set_grad_checkpointing()
    assert stored_bytes(tower, texts()) < plain / 2


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("enable", [False, True])
def test_checkpointing_runs_each_block_of_both_towers_twice(kind: type, enable: bool) -> None:
    model = make(kind).train()
    model.set_grad_checkpointing(enable)
    text_blocks = model.text_module().transformer.resblocks
    blocks = [*model.visual.transformer.resblocks, *text_blocks]
    calls = dict.fromkeys(blocks, 0)

    def count(block: nn.Module, _: object) -> None:
        calls[block] += 1

    for block in blocks:
        block.register_forward_pre_hook(count)
    image, text, _ = model(images(), texts())
    (image @ text.T).sum().backward()
    assert set(calls.values()) == {2 if enable else 1}


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_checkpointing_changes_no_gradients_and_no_statistics(vision: dict) -> None:
    plain, saving = make(vision=vision).train(), make(vision=vision).train()
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        image, text, scale = model(images(4), texts())
        (scale * image @ text.T).square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}")
    for (name, a), (_, b) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


def test_patch_dropout_only_acts_in_training() -> None:
    model = make(vision={**VIT, "patch_dropout": 0.5})
    assert model.train().visual._embeds(images()).shape[1] == 1 + 2
    assert model.eval().visual._embeds(images()).shape[1] == 1 + 4


def test_half_precision_norms_with_fp32_weights_compute_in_fp32() -> None:
    from oneclip.model import LayerNorm

    norm = LayerNorm(8)
    x = torch.randn(3, 8).half() * 100
    torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x.float(), (8,)).half())
