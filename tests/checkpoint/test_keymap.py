"""Rules that rename and reshape tensors, in both directions."""

import pytest
import torch
from torch import Tensor

from oneclip.checkpoint.formats import KeyMap, concatenated, renamed, reshaped, transposed
from oneclip.errors import CheckpointError

QKV = [f"tower.layers.*.attn.{part}_proj.*" for part in "qkv"]
KEYS = KeyMap(
    (
        concatenated(QKV, "visual.blocks.*.attn.in_proj_*"),
        concatenated("pool.in_proj_weight", ["pool.q.weight", "pool.kv.weight"], (1, 2)),
        transposed("head.weight", "proj"),
        reshaped("positions", "pos_embed", (1, 3, 2), (3, 2)),
        renamed("norm_*/scale", "norms.*.weight"),
        renamed("text.**", "bert.**"),
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


def test_a_round_trip_gives_the_same_tensors() -> None:
    back = KEYS.write(KEYS.read(theirs()))
    assert back.keys() == theirs().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs().items())


def test_ignored_tensors_are_skipped() -> None:
    assert KEYS.read({"tower.position_ids": torch.zeros(1)}) == {}


@pytest.mark.parametrize("direction", [KEYS.read, KEYS.write])
def test_an_unknown_name_is_an_error(direction: object) -> None:
    with pytest.raises(CheckpointError, match="no tensors named: mystery"):
        direction({"mystery": torch.zeros(1)})  # type: ignore[operator]


def test_a_missing_part_is_an_error() -> None:
    tensors = theirs()
    del tensors["tower.layers.1.attn.k_proj.bias"]
    with pytest.raises(
        CheckpointError,
        match=r"attn\.q_proj\.bias.* needs .*\.1\.attn\.k_proj\.bias, which is missing",
    ):
        KEYS.read(tensors)


def test_rows_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"pool\.in_proj_weight: 10 rows"):
        KEYS.read({"pool.in_proj_weight": torch.zeros(10, 4)})
