"""Submodules of models: names, classes, and inputs and outputs seen by hooks; both sides run this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from cases_clip import SMALL_RESNET, SMALL_VIT
from cases_model import RESNET, SWITCHES, TEXT, VIT
from parity_weights import fill, random_ids, random_images
from torch import Tensor, nn

POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 7}
CUSTOM = {**SWITCHES, "block_type": "custom"}
COCA = {
    "vision_cfg": {**VIT, **POOL, "output_tokens": True, "attn_pooler_heads": 4},
    "text_cfg": {**TEXT, "context_length": 15, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 120, "width": 64, "heads": 2, "layers": 2},
}
OPEN_CLIP: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("CLIP", {"vision_cfg": VIT, "text_cfg": TEXT}),
    "vit, QuickGELU, layer scale": (
        "CLIP",
        {
            "vision_cfg": {**VIT, "ls_init_value": 0.1},
            "text_cfg": {**TEXT, "ls_init_value": 0.1},
            "quick_gelu": True,
        },
    ),
    "vit with tokens": (
        "CLIP",
        {"vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True}, "text_cfg": TEXT},
    ),
    "vit with attentional pool": ("CLIP", {"vision_cfg": {**VIT, **POOL}, "text_cfg": TEXT}),
    "vit with two pools": (
        "CLIP",
        {
            "vision_cfg": {**VIT, **POOL, "attentional_pool": "parallel", "output_tokens": False, "width": 48,
                           "head_width": 24},
            "text_cfg": TEXT,
        },
    ),
    "resnet": ("CLIP", {"vision_cfg": RESNET, "text_cfg": TEXT}),
    "custom block": (
        "CLIP",
        {"vision_cfg": {**VIT, **CUSTOM}, "text_cfg": {**TEXT, **CUSTOM}},
    ),
    "custom text": ("CustomTextCLIP", {"vision_cfg": VIT, "text_cfg": TEXT}),
    "custom text, class token": (
        "CustomTextCLIP",
        {"vision_cfg": {**VIT, "no_ln_pre": True}, "text_cfg": {**TEXT, "embed_cls": True, "proj_bias": True}},
    ),
    "custom text, without causal mask": (
        "CustomTextCLIP",
        {"vision_cfg": VIT, "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"}},
    ),
    "coca": ("CoCa", COCA),
}  # fmt: skip
CLIP = {"vit": SMALL_VIT, "resnet": SMALL_RESNET}
DIM = 48
SAMPLE = 500  # number of compared values of each tensor


def of_open_clip(package: Any) -> dict[str, Any]:
    """Return the result of `observe` for each kind of model."""
    seen = {}
    for name, (kind, arguments) in OPEN_CLIP.items():
        torch.manual_seed(0)
        model = getattr(package, kind)(64 if kind == "CoCa" else DIM, **arguments)
        vision, text = arguments["vision_cfg"], arguments["text_cfg"]
        inputs = random_images(2, vision["image_size"]), random_ids(3, text["context_length"], 120)
        seen[name] = observe(model, inputs)
    return seen


def of_clip(package: Any) -> dict[str, Any]:
    seen = {}
    for name, arguments in CLIP.items():
        torch.manual_seed(0)
        model = package.model.CLIP(*arguments)
        seen[name] = observe(
            model, (random_images(2, arguments[1]), random_ids(3, arguments[5], arguments[6]))
        )
    return seen


def observe(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Return the initial weights, the submodules, and the inputs and outputs seen by hooks on all of them.

    Args:
        model: as it was just made, after a seed.
        inputs: images and token ids.
    """
    image, text = inputs
    seen: dict[str, Any] = {"next random number": float(torch.rand(()))}
    seen["weights"] = {
        name: sample(tensor) for name, tensor in model.named_parameters()
        if not name.endswith("text_decoder.text_projection")  # uninitialized memory in the published package
    }  # fmt: skip
    seen["modules"] = [(name, classes(module)) for name, module in model.named_modules()]
    seen["parameters"] = [name for name, _ in model.named_parameters()]
    seen["state"] = list(model.state_dict())
    fill(model.eval())
    for mode, grad in (("inference", False), ("gradient", True)):
        with torch.set_grad_enabled(grad):
            seen[mode] = hooked(model, lambda: _run(model, image, text))
    model.train()
    seen["training"] = hooked(model, lambda: _run(model, image, text))
    return seen


def _run(model: nn.Module, image: Tensor, text: Tensor) -> None:
    model.encode_image(image)
    model.encode_text(text)
    model(image[:2], text[:2])


def classes(module: nn.Module) -> list[str]:
    """Return the class name, and the torch classes that it derives from."""
    bases = [kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")]
    return [type(module).__name__, *bases]


def hooked(model: nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
    """Record inputs and outputs of all module calls, by module name, call number and position."""
    seen: dict[str, Any] = {}
    order: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            call = f"{name or 'model'} #{sum(entry == name for entry in order)}"
            order.append(name)
            seen[f"{call} inputs"] = len(args), sorted(kwargs)
            given = {
                **{f"in {i}": a for i, a in enumerate(args)},
                **{f"in {k}": v for k, v in kwargs.items()},
            }
            for place, value in (*given.items(), *_outputs(output)):
                seen[f"{call} {place}"] = sample(value) if isinstance(value, Tensor) else repr(value)

        return keep

    handles = [m.register_forward_hook(hook(n), with_kwargs=True) for n, m in model.named_modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {**seen, "order": order}


def sample(tensor: Tensor) -> tuple[Any, Tensor]:
    """Return shape, dtype and evenly spaced values of a tensor."""
    numbers = tensor.detach().flatten()
    return (list(tensor.shape), str(tensor.dtype)), numbers[:: 1 + len(numbers) // SAMPLE].clone()


def _outputs(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, dict):
        yield from ((f"out {key}", value) for key, value in output.items())
    elif isinstance(output, tuple):
        yield from ((f"out {index}", value) for index, value in enumerate(output))
    else:
        yield "out", output


def differences(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = 1e-5) -> list[str]:
    """List differences between two results of `observe`."""
    found = []
    for key in sorted(theirs.keys() | ours.keys(), key=str):
        if key not in ours or key not in theirs:
            found.append(f"{key}: only {'there' if key in theirs else 'here'}")
            continue
        mine, expected = ours[key], theirs[key]
        if isinstance(expected, dict):
            found += [f"{key}: {line}" for line in differences(mine, expected, tolerance)]
        elif isinstance(expected, tuple) and isinstance(expected[-1], Tensor):
            found += [f"{key}: {why}" for why in _apart(mine, expected, tolerance)]
        elif mine != expected:
            found.append(f"{key}: {_first_difference(mine, expected)}")
    return found


def _apart(mine: Any, theirs: tuple[Any, Tensor], tolerance: float) -> Iterator[str]:
    """Describe the difference between two results of `sample`."""
    if not isinstance(mine, tuple) or mine[0] != theirs[0]:
        yield f"{mine[0] if isinstance(mine, tuple) else mine} for {theirs[0]}"
        return
    found, expected = mine[1].double(), theirs[1].double()
    odd = ~expected.isfinite()
    distance, length = (found - expected)[~odd].norm(), expected[~odd].norm().clamp(min=1e-6)
    if (
        not torch.equal(found[odd].nan_to_num(), expected[odd].nan_to_num())
        or not distance <= tolerance * length
    ):
        yield f"relative error {float(distance / length):.1e}"


def _first_difference(mine: Any, expected: Any) -> str:
    if isinstance(expected, list) and isinstance(mine, list):
        pairs = zip(mine, expected, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(expected)))
        mine, expected = mine[place : place + 1], expected[place : place + 1]
        return f"at {place}: {mine} for {expected}"
    return f"{mine} for {expected}"
