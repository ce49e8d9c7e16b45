"""Usage and fine-tuning of models with `open_clip`."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import open_clip
from oneclip.errors import ConfigError, UnknownModelError
from open_clip.loss import ClipLoss
from open_clip.transformer import ResidualAttentionBlock

VISION = open_clip.CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=8, image_size=32)
TEXT = open_clip.CLIPTextCfg(width=64, heads=2, layers=2)
CAPTIONS = ["a diagram", "a dog", "a cat"]


def model_of(kind: type, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT, **options)


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_usage_compares_an_image_with_texts(kind: type) -> None:
    model = model_of(kind).eval()
    preprocess = open_clip.image_transform(model.visual.image_size, is_train=False)
    image = preprocess(Image.new("RGB", (50, 40), (200, 30, 90))).unsqueeze(0)
    text = open_clip.tokenize(CAPTIONS)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        image_features, text_features = model.encode_image(image), model.encode_text(text)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        text_probs = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    assert text_probs.shape == (1, 3)
    assert float(text_probs.sum()) == pytest.approx(1)


def test_configurations_may_be_dicts_as_in_their_files() -> None:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None}
    model = open_clip.CLIP(32, vision, {"width": 64, "heads": 2, "layers": 1}, output_dict=True)
    output = model(torch.randn(2, 3, 32, 32), open_clip.tokenize(CAPTIONS[:2]))
    assert output["image_features"].shape == output["text_features"].shape == (2, 32)


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_fine_tuning_a_locked_model_lowers_the_loss(kind: type) -> None:
    model = model_of(kind).train()
    model.lock_image_tower(unlocked_groups=1)
    model.lock_text_tower(unlocked_layers=2)
    model.set_grad_checkpointing()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert 0 < len(parameters) < len(list(model.parameters()))
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    images, text, loss = torch.randn(4, 3, 32, 32), open_clip.tokenize([*CAPTIONS, "a boat"]), ClipLoss()
    losses = []
    for _ in range(6):
        value = loss(*model(images, text))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        losses.append(value.item())
    assert losses[-1] < losses[0]


def test_published_names_split_parameters_for_weight_decay() -> None:
    model = model_of(open_clip.CLIP)
    assert model.no_weight_decay() == {
        "positional_embedding",
        "visual.positional_embedding",
        "visual.class_embedding",
    }


def test_blocks_can_be_recognized_for_wrapping() -> None:
    blocks = [
        module for module in model_of(open_clip.CLIP).modules() if isinstance(module, ResidualAttentionBlock)
    ]
    assert len(blocks) == 4


def test_a_state_dict_moves_between_the_two_apis() -> None:
    import clip

    published = clip.model.CLIP(32, 32, 2, 64, 8, 77, 49408, 64, 1, 2)
    flat = open_clip.CLIP(
        32, {**vars(VISION), "head_width": 64}, {**vars(TEXT), "heads": 1}, quick_gelu=True
    ).eval()
    flat.load_state_dict(published.state_dict())
    image, text = torch.randn(2, 3, 32, 32), open_clip.tokenize(CAPTIONS)
    with torch.no_grad():
        torch.testing.assert_close(flat.get_logits(image, text), published.eval()(image, text))


def test_the_readmes_usage_runs_as_written(tmp_path: Path) -> None:
    made, _, _ = open_clip.create_model_and_transforms("ViT-S-32-alt")
    torch.save(made.state_dict(), tmp_path / "weights.pt")

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-S-32-alt", pretrained=str(tmp_path / "weights.pt")
    )
    model.eval()  # it comes in training mode
    tokenizer = open_clip.get_tokenizer("ViT-S-32-alt")
    image = preprocess(Image.new("RGB", (50, 40), (200, 30, 90))).unsqueeze(0)
    text = tokenizer(CAPTIONS)
    with torch.no_grad():
        image_features, text_features = model.encode_image(image), model.encode_text(text)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        text_probs = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    assert float(text_probs.sum()) == pytest.approx(1)
    torch.testing.assert_close(model.state_dict(), made.state_dict())


def test_a_model_comes_in_training_mode_with_both_transforms() -> None:
    model, train, evaluate = open_clip.create_model_and_transforms("pocket", output_dict=True)
    assert model.training
    assert "image_features" in model(train(Image.new("RGB", (70, 60))).unsqueeze(0))
    assert evaluate(Image.new("RGB", (70, 60))).shape == (3, 64, 64)


def test_unknown_names_and_precisions_are_named() -> None:
    with pytest.raises(UnknownModelError, match="ViT-B-32"):
        open_clip.create_model_and_transforms("ViT-B-23")
    with pytest.raises(ConfigError, match="amp"):
        open_clip.create_model_and_transforms("ViT-B-32", precision="half")


def test_the_captioning_example_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}
    captioning = {
        "embed_dim": 32,
        "custom_text": True,
        "multimodal_cfg": {**text, "attn_pooler_heads": 2},
        "vision_cfg": {**vision, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "coca_small", captioning)
    torch.manual_seed(0)

    model, _, transform = open_clip.create_model_and_transforms(model_name="coca_small", pretrained=None)
    im = transform(Image.new("RGB", (50, 40), (200, 30, 90))).unsqueeze(0)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        generated = model.generate(im, seq_len=12)
    words = open_clip.decode(generated[0]).split("<end_of_text>")[0].replace("<start_of_text>", "")
    assert generated.shape[0] == 1
    assert words.strip()


def test_a_benchmark_measures_retrieval_as_it_does_with_the_published_package() -> None:
    model, _, transform = open_clip.create_model_and_transforms("pocket", pretrained="", cache_dir=None)
    tokenizer = open_clip.get_tokenizer("pocket")
    model = model.to("cpu").eval()
    inputs = torch.stack([transform(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue")])
    with torch.no_grad(), torch.autocast("cpu"):
        images = torch.nn.functional.normalize(model.encode_image(inputs), dim=-1)
        texts = torch.nn.functional.normalize(model.encode_text(tokenizer(["a red square", "blue"])), dim=-1)
    assert (texts.float() @ images.float().t()).shape == (2, 2)
