"""Moving average of the weights: formula, use, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ema_ranks import module, moved
from tiny_clip import TinyCLIP
from torch import nn

from oneclip.errors import CheckpointMismatchError, ConfigError
from oneclip.train.ema import UPDATES, Ema
from tests.ranks import run_ranks


def step(module: nn.Module, number: int) -> None:
    """Change all weights."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def means(ema: Ema) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in ema.state_dict().items()}


def test_the_average_is_the_formula_after_each_step(tiny: TinyCLIP) -> None:
    ema = Ema(tiny, 0.3)
    expected = tiny.proj.weight.detach().double()
    for number in range(8):
        step(tiny, number)
        ema.update()
        d = min(0.3, (1 + number) / (10 + number))
        expected = d * expected + (1 - d) * tiny.proj.weight.detach().double()
    torch.testing.assert_close(ema.state_dict()["proj.weight"].double(), expected, rtol=1e-6, atol=1e-6)


def test_it_has_the_names_of_the_module(tiny: TinyCLIP) -> None:
    assert Ema(tiny, 0.9).state_dict().keys() - {UPDATES} == tiny.state_dict().keys()


def test_statistics_of_batch_norms_follow_and_counts_do_not() -> None:
    norm = nn.BatchNorm1d(3)
    ema = Ema(norm, 0.0)
    norm(torch.randn(5, 3) + 7)
    ema.update()
    assert "num_batches_tracked" not in ema.state_dict()
    torch.testing.assert_close(ema.state_dict()["running_mean"], norm.running_mean)


def test_frozen_and_unsaved_tensors_are_not_averaged(tiny: TinyCLIP) -> None:
    tiny.proj.weight.requires_grad_(False)
    tiny.register_buffer("attn_mask", torch.full((2, 2), float("-inf")), persistent=False)
    assert not {"proj.weight", "attn_mask"} & Ema(tiny, 0.9).state_dict().keys()


def test_shared_weights_are_averaged_once(tiny: TinyCLIP) -> None:
    tiny.head = nn.Linear(16, 64, bias=False)
    tiny.head.weight = tiny.token_embedding.weight
    ema = Ema(tiny, 0.5)
    assert "head.weight" not in ema.state_dict()
    step(tiny, 0)
    ema.update()
    with ema.applied():
        assert torch.equal(tiny.head.weight, ema.state_dict()["token_embedding.weight"])


def test_applied_weights_are_the_average_and_are_restored_afterwards(tiny: TinyCLIP) -> None:
    ema = Ema(tiny, 0.9)
    step(tiny, 0)
    ema.update()
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in tiny.named_parameters()}
    average = means(ema)
    with ema.applied():
        for name, p in tiny.named_parameters():
            assert torch.equal(p, average[name])
            assert p.data_ptr() == ema.state_dict()[name].data_ptr()
    for name, p in tiny.named_parameters():
        was, address, values = before[name]
        assert p is was
        assert p.data_ptr() == address
        assert torch.equal(p, values)


def test_an_error_while_applied_restores_the_weights(tiny: TinyCLIP) -> None:
    ema = Ema(tiny, 0.9)
    step(tiny, 0)
    before = tiny.proj.weight.detach().clone()
    with pytest.raises(ValueError, match="broken"), ema.applied():
        raise ValueError("broken")
    assert torch.equal(tiny.proj.weight, before)


def test_weights_in_half_precision_have_an_average_in_fp32(tiny: TinyCLIP) -> None:
    tiny.to(torch.bfloat16)
    ema = Ema(tiny, 0.9)
    step(tiny, 0)
    ema.update()
    average, before = means(ema), tiny.proj.weight.detach().clone()
    with ema.applied():
        assert torch.equal(tiny.proj.weight, average["proj.weight"].bfloat16())
    assert torch.equal(tiny.proj.weight, before)
    assert torch.equal(ema.state_dict()["proj.weight"], average["proj.weight"])


def test_a_loaded_average_continues_exactly(tiny: TinyCLIP, tmp_path: Path) -> None:
    ema = Ema(tiny, 0.99)
    for number in range(3):
        step(tiny, number)
        ema.update()
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    again = Ema(tiny, 0.99)
    again.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    step(tiny, 3)
    ema.update()
    again.update()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ema.state_dict().items())


def test_an_average_of_other_weights_is_refused(tiny: TinyCLIP) -> None:
    state = Ema(tiny, 0.9).state_dict()
    tiny.proj.weight.requires_grad_(False)
    with pytest.raises(CheckpointMismatchError, match=r"proj\.weight"):
        Ema(tiny, 0.9).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(tiny: TinyCLIP, decay: float) -> None:
    with pytest.raises(ConfigError, match="decay of the moving average"):
        Ema(tiny, decay)


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("ema")
    run_ranks(2, [Path(__file__).with_name("ema_ranks.py"), folder])
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_the_average_of_shards_equals_that_of_full_weights(
    by_rank: list[dict[str, dict[str, torch.Tensor]]],
) -> None:
    one = module()
    ema = Ema(one, 0.9)
    moved(one, ema)
    for results in by_rank:
        assert results["means"].keys() == ema.state_dict().keys()
        for name, mean in ema.state_dict().items():
            torch.testing.assert_close(results["means"][name], mean)
            torch.testing.assert_close(results["again"][name], mean)
            assert torch.equal(results["read"][name], results["means"][name])


def test_averages_of_shards_are_applied_and_restored(by_rank: list[dict[str, torch.Tensor]]) -> None:
    one = module()
    ema = Ema(one, 0.9)
    moved(one, ema)
    x = torch.ones(2, 4)
    for results in by_rank:
        torch.testing.assert_close(results["after"], one(x))
        with ema.applied():
            torch.testing.assert_close(results["applied"], one(x))
