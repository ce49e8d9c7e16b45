"""Caption generation with many options; both sides of a comparison run this file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from cases_coca import END, START, build, cases
from parity_weights import random_images
from torch import Tensor

PROMPT = torch.tensor([[START, 4, 9], [START, 4, 9], [START, 7, 7], [START, 3, END]])

GREEDY: dict[str, dict[str, Any]] = {
    "greedy": {},
    "long": {"seq_len": 16, "min_seq_len": 1},
    "not too short": {"seq_len": 14, "min_seq_len": 12},
    "short": {"seq_len": 3, "min_seq_len": 2},
    "filled up": {"fixed_output_length": True, "min_seq_len": 1},
    "repeating less": {"repetition_penalty": 1.7, "seq_len": 15},
    "repeating more": {"repetition_penalty": 0.6, "min_seq_len": 2},
    "begun": {"text": PROMPT},
    "begun and filled up": {"text": PROMPT, "fixed_output_length": True, "min_seq_len": 1},
    "prompt longer than seq_len": {"text": PROMPT.repeat(1, 3), "seq_len": 7},
    "one prompt": {"text": PROMPT[0], "image_count": 1},
    "several ends": {"eos_token_id": [END]},
    "ids as tensors": {"eos_token_id": torch.tensor([END]), "sot_token_id": torch.tensor([START])},
    "other padding": {"pad_token_id": 5, "min_seq_len": 1, "fixed_output_length": True},
    "another start": {"sot_token_id": 3},
}
DRAWN: dict[str, dict[str, Any]] = {
    "of three": {"top_k": 3},
    "of more than there are": {"top_k": 99},
    "hot": {"top_k": 5, "temperature": 3.0, "min_seq_len": 1},
    "of a half": {"generation_type": "top_p", "top_p": 0.5},
    "of all": {"generation_type": "top_p", "top_p": 1.0, "repetition_penalty": 1.2},
    "of none but the likeliest": {"generation_type": "top_p", "top_p": 0.0},
    "by default": {"generation_type": "top_p", "min_seq_len": 1, "text": PROMPT},
    "cold": {"generation_type": "top_p", "top_p": 0.9, "temperature": 0.3},
}
SEARCHED: dict[str, dict[str, Any]] = {
    "groups": {},
    "one group": {"num_beam_groups": 1},
    "two beams": {"num_beams": 2, "num_beam_groups": 1},
    "groups of one": {"num_beams": 3},
    "wide": {"num_beams": 12, "num_beam_groups": 1, "min_seq_len": 1},
    "long": {"seq_len": 16, "num_beams": 4, "num_beam_groups": 2},
    "short": {"seq_len": 4, "min_seq_len": 1, "num_beams": 4, "num_beam_groups": 1},
    "not too short": {"seq_len": 14, "min_seq_len": 12},
    "early ends": {"min_seq_len": 1, "num_beams": 8, "num_beam_groups": 2, "sot_token_id": 3},
    "filled up": {"fixed_output_length": True, "min_seq_len": 1},
    "repeating less": {"repetition_penalty": 1.7, "num_beam_groups": 2, "num_beams": 4},
    "repeating more": {"repetition_penalty": 0.6, "num_beams": 4, "num_beam_groups": 1},
    "other padding": {"pad_token_id": 5, "min_seq_len": 1, "num_beams": 4, "num_beam_groups": 1},
}
STOPPED: dict[str, dict[str, Any]] = {
    "sampling": {"generation_type": "top_k"},
    "sampling in a window": {"generation_type": "top_k", "max_seq_len": 6, "repetition_penalty": 1.3},
    "search": {"num_beams": 4, "num_beam_groups": 2},
}
MODELS = ("pooled", "weights 1", "other padding")  # these write with all options
OTHER_POOLS = ("no pool", "parallel pools")  # only what the decoder reads differs: these write once per group
SEQ_LEN = 12


def observe(package: Any) -> dict[str, Tensor | str]:
    """Return the ids for all options and models."""
    with tempfile.TemporaryDirectory() as folder:
        models = {case.name: build(package, case) for case in cases(Path(folder))}
    seen: dict[str, Any] = {}
    for name in (*MODELS, *OTHER_POOLS):
        for group, ways in (
            ("greedy", {key: {"generation_type": "top_k", **way} for key, way in GREEDY.items()}),
            ("drawn", {key: {"generation_type": "top_k", **way} for key, way in DRAWN.items()}),
            ("searched", SEARCHED),
            ("stopped", {key: {**way, "stopping_criteria": criteria()} for key, way in STOPPED.items()}),
        ):
            for way, arguments in list(ways.items())[: 1 if name in OTHER_POOLS else None]:
                seen[f"{group}/{name}/{way}"] = write(models[name], arguments)
    for way in ("top_k", "beam_search"):
        hugging_face = {"generation_type": way, "num_beams": 4, "num_beam_groups": 1, "seq_len": 9}
        seen[f"greedy/Hugging Face text/{way}"] = write(models["Hugging Face text"], hugging_face)
    return seen


def write(model: Any, arguments: dict[str, Any]) -> Tensor:
    torch.manual_seed(5)
    given = {"seq_len": SEQ_LEN, "sot_token_id": START, "eos_token_id": END, **arguments}
    ids: Tensor = model.generate(random_images(given.pop("image_count", 4), 32), **given)
    return ids


def criteria() -> list[Any]:
    """Make two stopping criteria: a length limit of transformers, and one that stops after three equal tokens."""
    from transformers import MaxLengthCriteria

    def repeats(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return (ids[:, -3:] == ids[:, -1:]).all(dim=1) & torch.tensor(ids.shape[1] >= 6)

    return [MaxLengthCriteria(max_length=SEQ_LEN - 1), repeats]
