"""Captioning features that do not work in open_clip_torch 3.3.0, listed in docs/compatibility.md.

Both sides of a comparison run this file: each probe says whether the package does what is documented.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases_coca import END, POOLED, START, TEXT, WIDTHS, Case, build, cases
from cases_generate import PROMPT
from parity_weights import random_ids, random_images
from torch import Tensor

IDS = {"sot_token_id": START, "eos_token_id": END}
GREEDY = {**IDS, "generation_type": "top_k"}


def observe(package: Any) -> dict[str, bool]:
    """Return whether each probe passes."""
    return {name: _passes(lambda p=probe: p(package)) for name, probe in PROBES.items()}


def _passes(probe: Callable[[], Any]) -> bool:
    try:
        with torch.no_grad():
            return bool(probe())
    except Exception:
        return False


def _model(package: Any, **options: Any) -> Any:
    return build(package, Case("small", **options))


def _lively(package: Any) -> Any:
    """Build a model that generates end-of-text tokens."""
    return build(package, next(case for case in cases(Path()) if case.name == "weights 1"))


def _short(package: Any) -> bool:
    model, text = _model(package), random_ids(3, 16, 24)[:2]
    return bool((model.encode_text(text[:, :12]) - model.encode_text(text)).abs().max() < 1e-5)


def _projection(package: Any) -> bool:
    allocated = torch.empty

    def full_of_fives(*arguments: Any, **options: Any) -> Tensor:  # simulates uninitialized memory
        tensor: Tensor = allocated(*arguments, **options)
        return tensor.fill_(5.0) if tensor.is_floating_point() else tensor

    torch.empty = full_of_fives
    try:
        projection = package.CoCa(64, WIDTHS, TEXT, POOLED).text_decoder.text_projection
    finally:
        torch.empty = allocated
    return bool(0.1 < float(projection.std()) < 0.15)  # 64 ** -0.5


def _mlp(package: Any) -> bool:
    decoder = package.CoCa(64, {**WIDTHS, "mlp_ratio": 2}, TEXT, POOLED).text_decoder
    return bool(decoder.resblocks[0].mlp.c_fc.weight.shape[0] == 128)


def _logits(package: Any) -> bool:
    seen = _model(package).forward_intermediates(
        random_images(2, 32), random_ids(3, 16, 24), output_logits=True
    )
    return bool(seen["image_logits"].shape == (2, 3))


def _no_class_token(package: Any) -> bool:
    model = _model(package, text={**TEXT, "embed_cls": False})
    return model.generate(random_images(2, 32), **GREEDY, seq_len=8) is not None


def _begun(package: Any) -> bool:
    ids: Tensor = _model(package).generate(random_images(4, 32), PROMPT, **IDS, seq_len=9)
    return torch.equal(ids[:, :3], PROMPT)


def _begun_alike(package: Any) -> bool:
    return bool(_model(package).generate(random_images(4, 32), PROMPT[:1], **GREEDY, seq_len=9).shape[0] == 4)


def _long(package: Any) -> bool:
    ids = _lively(package).generate(
        random_images(4, 32), **GREEDY, seq_len=30, min_seq_len=28, pad_token_id=99
    )
    return bool(ids.shape[1] == 30)


def _ended(package: Any) -> bool:
    options = {"seq_len": 12, "min_seq_len": 11, "max_seq_len": 6, "pad_token_id": 99}
    ids = _lively(package).generate(random_images(4, 32), **GREEDY, **options)
    return bool((ids[:, -1] == END).all())


def _several_ends(package: Any) -> bool:
    ids = _lively(package).generate(
        random_images(4, 32), **{**GREEDY, "eos_token_id": [END, 9, 4]}, seq_len=12
    )
    return bool(ids.shape[0] == 4)


def _one_beam(package: Any) -> bool:
    ids = _model(package).generate(random_images(2, 32), **IDS, num_beams=1, num_beam_groups=1, seq_len=8)
    return bool(ids.shape[0] == 2)


def _mode(package: Any) -> bool:
    model = _model(package).train()
    model.visual.eval()
    modes = [module.training for module in model.modules()]
    model.generate(random_images(2, 32), **GREEDY, seq_len=8)
    return [module.training for module in model.modules()] == modes


def _evaluation(package: Any) -> bool:
    model = _model(package, vision={**POOLED, "patch_dropout": 0.5}).train()
    seen: list[bool] = []
    model.visual.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    model.generate(random_images(2, 32), **IDS, seq_len=8)
    return bool(seen) and not any(seen)


PROBES = {
    "captions shorter than the context": _short,
    "a projection that begins as a random number": _projection,
    "the decoder's mlp_ratio": _mlp,
    "logits beside intermediates": _logits,
    "captions without a class token": _no_class_token,
    "beginnings in a beam search": _begun,
    "one prompt for all images": _begun_alike,
    "captions longer than the context": _long,
    "an end behind a window": _ended,
    "several ends of text": _several_ends,
    "one beam": _one_beam,
    "modes of single towers": _mode,
    "beam search in evaluation mode": _evaluation,
}
