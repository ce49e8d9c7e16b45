"""Changes that research programs make to model parts, and the results; both sides of a comparison run this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from cases_clip import SMALL_RESNET, SMALL_VIT
from cases_model import RESNET, TEXT, VIT
from parity_weights import fill, random_ids, random_images, random_tensor
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH, WORDS = 16, 120
Outcome = dict[str, Any]


def of_open_clip(package: Any) -> dict[str, Outcome]:
    """Return the results of all probes for `open_clip`."""

    def make(resnet: bool = False) -> Any:
        return _filled(package.CLIP(48, RESNET if resnet else VIT, TEXT))

    return {name: _outcome(probe, package, make) for name, probe in {**PROBES, **OF_OPEN_CLIP}.items()}


def of_clip(package: Any) -> dict[str, Outcome]:
    """Return the results of all probes for `clip`."""

    def make(resnet: bool = False) -> Any:
        return _filled(package.model.CLIP(*(SMALL_RESNET if resnet else SMALL_VIT)))

    return {name: _outcome(probe, package, make) for name, probe in PROBES.items()}


def _filled(model: nn.Module) -> nn.Module:
    fill(model)
    return model.eval()


def _outcome(probe: Callable[[Any, Any], Outcome], package: Any, make: Any) -> Outcome:
    torch.manual_seed(0)
    return {
        key: v.detach().clone() if isinstance(v, Tensor) else v for key, v in probe(package, make).items()
    }


def _size(model: Any) -> int:
    size = getattr(model.visual, "input_resolution", None) or model.visual.image_size
    return size if isinstance(size, int) else size[0]


def _encoded(model: Any, **images: Any) -> Outcome:
    """Return features of images and texts, without gradients."""
    with torch.no_grad():
        image = images.get("image", random_images(2, _size(model)))
        text = images.get("text", random_ids(3, LENGTH, WORDS))
        return {"image": model.encode_image(image), "text": model.encode_text(text)}


def _blocks(model: Any) -> list[Any]:
    return [model.visual.transformer.resblocks[1], model.transformer.resblocks[1]]


def _attention_maps(package: Any, make: Any) -> Outcome:
    """Request the attention weights of all heads by a pre-hook, and store them by a hook."""
    model, seen = make(), {}

    def ask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    for index, block in enumerate(_blocks(model)):
        block.attn.register_forward_pre_hook(ask, with_kwargs=True)
        block.attn.register_forward_hook(
            lambda m, i, out, index=index: seen.update({f"weights {index}": out[1]})
        )
    return {**_encoded(model), **seen}


def _patched_attention(package: Any, make: Any) -> Outcome:
    model = make()
    for block in _blocks(model):
        plain = block.attn.forward

        def forward(query: Tensor, key: Tensor, value: Tensor, *, plain: Any = plain, **options: Any) -> Any:
            return plain(2 * query, key.flip(-1), value, **options)

        block.attn.forward = forward
    return _encoded(model)


def _replaced_attention(package: Any, make: Any) -> Outcome:
    model = make()
    for block in _blocks(model):
        old = block.attn
        new = nn.MultiheadAttention(old.embed_dim, 2, batch_first=old.batch_first, bias=False)
        fill(new)
        block.attn = new
    return _encoded(model)


def _called_attention(package: Any, make: Any) -> Outcome:
    seen, model = {}, make()
    for index, block in enumerate(_blocks(model)):
        tokens = torch.randn(
            LENGTH, LENGTH, block.attn.embed_dim, generator=torch.Generator().manual_seed(index)
        )
        seen[f"attention {index}"] = block.attention(tokens)
        seen[f"block {index}"] = block(tokens)
        weights = block.attn(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)[1]
        seen[f"weights {index}"] = weights
    return seen


def _patched_method(package: Any, make: Any) -> Outcome:
    """Patch the `attention` method of a block."""
    model = make()
    for block in _blocks(model):
        block.attention = lambda *args, plain=block.attention, **kw: 0.5 * plain(*args, **kw)
    return _encoded(model)


def _patched_class(package: Any, make: Any) -> Outcome:
    model = make()
    kind = type(_blocks(model)[0])
    plain, lengths = kind.forward, []

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        lengths.append(list(args[0].shape))
        return 1.5 * plain(self, *args, **options)

    with mock.patch.object(kind, "forward", forward):
        return {**_encoded(model), "shapes": lengths}


def _patched_function(package: Any, make: Any) -> Outcome:
    """Patch `F.multi_head_attention_forward`, to see the output of all heads."""
    plain, lengths = F.multi_head_attention_forward, []

    def spy(*args: Any, **options: Any) -> Any:
        lengths.append(list((args[0] if args else options["query"]).shape))
        return plain(*args, **options)

    with mock.patch.object(F, "multi_head_attention_forward", spy), torch.enable_grad():
        model = make()
        features = model.encode_text(random_ids(3, LENGTH, WORDS))
    return {"text": features, "shapes": lengths}


def _global_hook(package: Any, make: Any) -> Outcome:
    model, shapes = make(), []
    keep = lambda module, args, out: shapes.append([list(a.shape) for a in args])  # noqa: E731
    handle = nn.modules.module.register_module_forward_hook(keep)
    try:
        return {**_encoded(model), "shapes": shapes}
    finally:
        handle.remove()


def _backward_hooks(package: Any, make: Any) -> Outcome:
    """Compute gradients inside the text tower, for all positions including padding."""
    model, seen = make(), {}
    for index, block in enumerate(model.transformer.resblocks):
        block.register_full_backward_hook(
            lambda m, i, out, index=index: seen.update({f"gradient {index}": out[0]})
        )
    model.encode_text(random_ids(3, LENGTH, WORDS)).square().sum().backward()
    return seen


def _grad_cam(package: Any, make: Any) -> Outcome:
    """Return activations and gradients of the last ResNet stage, and bn3's output after the in-place addition."""
    model, kept = make(resnet=True), {}
    model.visual.layer4.register_forward_hook(lambda m, i, out: kept.update(maps=out))
    model.visual.layer3[0].bn3.register_forward_hook(lambda m, i, out: kept.update(kept=out))
    features = model.encode_image(random_images(2, _size(model)))
    gradient = torch.autograd.grad(features.sum(), kept["maps"])[0]
    return {**kept, "gradient": gradient}


def _lora(package: Any, make: Any) -> Outcome:
    """Add LoRA of peft to the attention of both towers."""
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(make(), LoraConfig(target_modules=["attn"], r=4, init_lora_weights=False))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * random_tensor(name, parameter)
    trained = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    return {**_encoded(model.eval()), "trained": trained}


def _quantized(package: Any, make: Any) -> Outcome:
    model = torch.ao.quantization.quantize_dynamic(make(), {nn.Linear}, dtype=torch.qint8)
    kinds = sorted(
        (name, type(m).__name__) for name, m in model.named_modules() if "quant" in type(m).__module__
    )
    with torch.no_grad():
        return {"image": model.encode_image(random_images(2, _size(model))), "kinds": kinds}


def _four_channels(package: Any, make: Any) -> Outcome:
    model = make()
    old = model.visual.conv1
    new = nn.Conv2d(4, old.out_channels, old.kernel_size, old.stride, bias=False)
    fill(new)
    model.visual.conv1 = new
    image = torch.randn(2, 4, _size(model), _size(model), generator=torch.Generator().manual_seed(1))
    return _encoded(model, image=image)


def _larger_images(package: Any, make: Any) -> Outcome:
    model = make()
    old, size, patch = model.visual.positional_embedding, 2 * _size(model), model.visual.conv1.kernel_size[0]
    table = torch.empty(1 + (size // patch) ** 2, old.shape[1])
    model.visual.positional_embedding = nn.Parameter(random_tensor("positional_embedding", table))
    return _encoded(model, image=random_images(2, size))


def _more_words(package: Any, make: Any) -> Outcome:
    model = make()
    model.token_embedding = nn.Embedding(WORDS + 5, model.token_embedding.embedding_dim)
    fill(model.token_embedding)
    text = random_ids(3, LENGTH, WORDS)
    text[:, 2] = WORDS + 3
    return _encoded(model, text=text)


class Adapter(nn.Module):
    """Adapter around a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.down = layer, nn.Linear(layer.in_features, 3)
        self.up = nn.Linear(3, layer.out_features)
        fill(self.down), fill(self.up)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x).relu())


def _adapter(package: Any, make: Any) -> Outcome:
    model = make()
    block = _blocks(model)[0]
    block.mlp.c_fc = Adapter(block.mlp.c_fc)
    return _encoded(model)


def _other_pool(package: Any, make: Any) -> Outcome:
    """Use a ResNet without its attention pool as a feature extractor, at another image size."""
    model = make(resnet=True)
    model.visual.attnpool = nn.AdaptiveAvgPool2d(1)
    return {"maps": model.encode_image(random_images(2, 64))}


class Linear8bit(nn.Linear):
    """Replacement for linear layers that becomes int8 by `prepare_for_eval`."""

    def prepare_for_eval(self) -> None:
        scale = self.weight.detach().abs().max() / 127
        levels = (self.weight.detach() / scale).round().to(torch.int8)
        del self.weight
        self.register_buffer("weight", levels)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def _int8_layers(package: Any, make: Any) -> Outcome:
    model = package.utils.replace_linear(make(), Linear8bit)
    package.utils.convert_int8_model_to_inference_mode(model)
    return _encoded(model)


def _replaced_block(package: Any, make: Any) -> Outcome:
    """Replace a block of the text tower by a custom class."""

    class Doubled(type(make().transformer.resblocks[0])):  # type: ignore[misc]
        def forward(self, *args: Any, **options: Any) -> Any:
            shapes.append(list(args[0].shape))
            return 2 * super().forward(*args, **options)

    model, shapes = make(), []
    block = Doubled(64, 2)
    fill(block)
    model.transformer.resblocks[1] = block
    return {**_encoded(model), "shapes": shapes}


PROBES: dict[str, Callable[[Any, Any], Outcome]] = {
    "attention maps by hooks": _attention_maps,
    "attn.forward patched": _patched_attention,
    "attn replaced": _replaced_attention,
    "attention called": _called_attention,
    "attention patched": _patched_method,
    "a block's class patched": _patched_class,
    "torch's function patched": _patched_function,
    "a global hook": _global_hook,
    "backward hooks": _backward_hooks,
    "Grad-CAM": _grad_cam,
    "peft on attn": _lora,
    "quantize_dynamic": _quantized,
    "four channels": _four_channels,
    "larger images": _larger_images,
    "more words": _more_words,
    "an adapter in place of c_fc": _adapter,
    "another pool of a ResNet": _other_pool,
}
OF_OPEN_CLIP = {"int8 layers": _int8_layers, "a block replaced": _replaced_block}
