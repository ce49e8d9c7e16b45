"""A table of names, read in both directions."""

import pytest
import torch
from torch import Tensor

from oneclip.checkpoint.formats import KeyMap, joined, reshaped, same, transposed
from oneclip.errors import CheckpointError

QKV = [f"tower.layers.*.attn.{part}_proj.*" for part in "qkv"]
KEYS = KeyMap(
    (
        joined(QKV, "visual.blocks.*.attn.in_proj_*"),
        joined("pool.in_proj_weight", ["pool.q.weight", "pool.kv.weight"], (1, 2)),
        transposed("head.weight", "proj"),
        reshaped("positions", "pos_embed", (1, 3, 2), (3, 2)),
        same("norm_*/scale", "norms.*.weight"),
        same("text.**", "bert.**"),
    ),
    ignored=("*.position_ids",),
)


def theirs() -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = {
        f"tower.layers.{block}.attn.{part}_proj.{kind}": torch.randn(*([4, 4] if kind == "weight" else [4]))
        for block in range(2)
        for part in "qkv"
        for kind in ("weight", "bias")
    }
    tensors |= {"pool.in_proj_weight": torch.randn(12, 4), "head.weight": torch.randn(3, 4)}
    tensors |= {"positions": torch.randn(3, 2), "norm_7/scale": torch.randn(3)}
    return tensors | {"text.encoder.layer.0.weight": torch.randn(2)}


def test_their_tensors_get_our_names_and_shapes() -> None:
    ours = KEYS.read(theirs())
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == {
        "visual.blocks.0.attn.in_proj_weight": (12, 4),
        "visual.blocks.0.attn.in_proj_bias": (12,),
        "visual.blocks.1.attn.in_proj_weight": (12, 4),
        "visual.blocks.1.attn.in_proj_bias": (12,),
        "pool.q.weight": (4, 4),
        "pool.kv.weight": (8, 4),
        "proj": (4, 3),
        "pos_embed": (1, 3, 2),
        "norms.7.weight": (3,),
        "bert.encoder.layer.0.weight": (2,),
    }


def test_there_and_back_is_the_same() -> None:
    back = KEYS.write(KEYS.read(theirs()))
    assert back.keys() == theirs().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs().items())


def test_what_holds_no_weights_is_passed_over() -> None:
    assert KEYS.read({"tower.position_ids": torch.zeros(1)}) == {}


@pytest.mark.parametrize("direction", [KEYS.read, KEYS.write])
def test_a_name_that_no_rule_knows_is_an_error(direction: object) -> None:
    with pytest.raises(CheckpointError, match="no place for: mystery"):
        direction({"mystery": torch.zeros(1)})  # type: ignore[operator]


def test_a_group_that_lacks_a_part_is_an_error() -> None:
    tensors = theirs()
    del tensors["tower.layers.1.attn.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.attn\.q_proj\.bias.*came without"):
        KEYS.read(tensors)


def test_rows_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"pool\.in_proj_weight: 10 rows"):
        KEYS.read({"pool.in_proj_weight": torch.zeros(10, 4)})
