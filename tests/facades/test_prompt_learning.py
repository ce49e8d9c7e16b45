"""Prompt learning for a frozen model (Zhou et al. 2022, "Learning to prompt") with `clip`.

Such programs use the parts of the text tower: embeddings are passed to `transformer` as (L, B, C), without a mask.
"""

import pytest
import torch
from small_clip import MODELS, random_model
from torch import Tensor, nn
from torch.nn import functional as F

import clip

CLASSES = ["cat", "red apple", "sailing ship"]


class TextEncoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.transformer = model.transformer
        self.positional_embedding = model.positional_embedding
        self.ln_final = model.ln_final
        self.text_projection = model.text_projection
        self.dtype = model.dtype

    def forward(self, prompts: Tensor, tokens: Tensor) -> Tensor:
        x = prompts + self.positional_embedding.type(self.dtype)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)  # blocks take (L, B, C)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(x.shape[0]), tokens.argmax(dim=-1)] @ self.text_projection


class LearnedPrompts(nn.Module):
    """Learned vectors before the name of each class, shared by all classes."""

    def __init__(self, model: nn.Module, names: list[str], count: int = 4) -> None:
        super().__init__()
        self.tokens = clip.tokenize([" ".join(["X"] * count) + f" {name}." for name in names])
        with torch.no_grad():
            embedded = model.token_embedding(self.tokens).type(model.dtype)
        self.context = nn.Parameter(
            0.02 * torch.randn(count, model.ln_final.weight.shape[0], dtype=model.dtype)
        )
        self.register_buffer("start", embedded[:, :1])
        self.register_buffer("rest", embedded[:, 1 + count :])

    def forward(self) -> Tensor:
        return torch.cat([self.start, self.context.expand(len(self.tokens), -1, -1), self.rest], dim=1)


class PromptedCLIP(nn.Module):
    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.prompts = LearnedPrompts(model, names)
        self.text_encoder = TextEncoder(model)
        self.image_encoder, self.logit_scale, self.dtype = model.visual, model.logit_scale, model.dtype

    def forward(self, image: Tensor) -> Tensor:
        image_features = F.normalize(self.image_encoder(image.type(self.dtype)), dim=-1)
        text_features = F.normalize(self.text_encoder(self.prompts(), self.prompts.tokens), dim=-1)
        return self.logit_scale.exp() * image_features @ text_features.t()


@pytest.mark.parametrize("name", MODELS)
def test_a_program_that_learns_prompts_lowers_its_loss(name: str) -> None:
    model = random_model(MODELS[name])
    frozen = {key: value.clone() for key, value in model.state_dict().items()}
    program = PromptedCLIP(model, CLASSES)
    for key, parameter in program.named_parameters():
        parameter.requires_grad = key == "prompts.context"
    optimizer = torch.optim.SGD([program.prompts.context], lr=0.02)
    side = model.visual.input_resolution
    image, label = torch.randn(6, 3, side, side), torch.arange(6) % 3
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(program(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, frozen[key]) for key, value in model.state_dict().items())


def test_prompts_that_are_texts_give_the_features_of_the_texts() -> None:
    model = random_model()
    tokens = clip.tokenize(["a photo of a cat.", "a long red ship that sails"])
    with torch.no_grad():
        features = TextEncoder(model)(model.token_embedding(tokens), tokens)
        torch.testing.assert_close(features, model.encode_text(tokens))


def test_transformers_know_their_mask_at_any_length() -> None:
    model = random_model()
    x = torch.randn(9, 2, 64)  # (L, B, C)
    with torch.no_grad():
        whole = model.transformer(x)
        torch.testing.assert_close(model.transformer(x[:5]), whole[:5])  # later tokens are masked
        seen = model.visual.transformer(x)
        assert not torch.allclose(model.visual.transformer(x[:5]), seen[:5])


def test_blocks_can_be_run_one_by_one() -> None:
    model = random_model()
    x = torch.randn(9, 2, 64)
    with torch.no_grad():
        y = x
        for block in model.transformer.resblocks:
            y = block(y)
        torch.testing.assert_close(y, model.transformer(x))
        torch.testing.assert_close(model.transformer.resblocks(x), y)


def test_hooks_see_tokens_first() -> None:
    model = random_model()
    shapes = []
    model.visual.transformer.resblocks[-1].register_forward_hook(
        lambda _, __, output: shapes.append(output.shape)
    )
    model.encode_image(torch.randn(3, 3, 32, 32))
    assert shapes == [(5, 3, 64)]


def test_the_masked_blocks_can_be_made_by_hand() -> None:
    mask = random_model().build_attention_mask()
    assert mask.shape == (77, 77)
    stack = clip.model.Transformer(64, 2, 1, attn_mask=mask)
    bare = clip.model.Transformer(width=64, layers=2, heads=1)
    bare.load_state_dict(stack.state_dict())
    x = torch.randn(77, 1, 64)
    assert not torch.allclose(stack(x), bare(x))
    assert bare(torch.randn(100, 1, 64)).shape == (100, 1, 64)


def test_intermediates_keep_the_batch_first() -> None:
    model = random_model()
    seen = model.forward_intermediates(
        torch.randn(2, 3, 32, 32), clip.tokenize(["a", "b", "c"]), image_output_fmt="NLC"
    )
    assert seen["image_intermediates"][0].shape == (2, 4, 64)
    assert seen["text_intermediates"][0].shape == (3, 77, 64)


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    plain, saving = random_model(MODELS[name]), random_model(MODELS[name])
    saving.set_grad_checkpointing()
    side = plain.visual.input_resolution
    image = torch.randn(2, 3, side, side)
    for model in (plain, saving):
        model(image, clip.tokenize(CLASSES))[0].square().sum().backward()
    for (key, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, key=key: f"{key}: {m}")
