"""Parts of a batch on threads that each compute alone: the same numbers, and nothing of it shows outside."""

import os
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from oneclip.engine.thread_groups import LEAST, in_slices, lanes

THREADS = 3


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    own = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(own)


def test_rows_come_back_in_their_order() -> None:
    batch = torch.arange(50.0)[:, None]
    assert torch.equal(in_slices(lambda rows: rows * 2, batch, LEAST, 1), batch * 2)


def test_each_part_is_computed_by_a_thread_with_its_share_of_the_processors() -> None:
    seen: list[tuple[str, int]] = []

    def compute(rows: Tensor) -> Tensor:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return rows

    in_slices(compute, torch.zeros(6, 1), LEAST, 1)
    assert len(seen) == THREADS
    assert {count for _, count in seen} == {1}
    assert all(name.startswith("oneclip-lane") for name, _ in seen)


def test_a_single_row_has_all_processors() -> None:
    seen: list[int] = []
    in_slices(lambda rows: (seen.append(torch.get_num_threads()), rows)[1], torch.zeros(1, 1), 50, 1)
    assert seen == [THREADS]


def test_threads_of_the_program_keep_their_number() -> None:
    lanes(2, 1)
    assert torch.get_num_threads() == THREADS
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [THREADS]


def test_the_mode_of_the_caller_is_that_of_the_lanes() -> None:
    batch = torch.zeros(6, 1)
    with torch.inference_mode():
        assert in_slices(lambda rows: rows + 1, batch, LEAST, 1).is_inference()
    with torch.no_grad():
        plain = in_slices(lambda rows: rows + 1, batch, LEAST, 1)
    assert not plain.is_inference()
    assert not plain.requires_grad


def test_an_error_is_raised_once_all_have_ended() -> None:
    ended: list[float] = []

    def compute(rows: Tensor) -> Tensor:
        if rows[0] == 0:
            raise MemoryError("not enough memory")
        ended.append(float(rows[0]))
        return rows

    with pytest.raises(MemoryError, match="not enough memory"):
        in_slices(compute, torch.arange(6.0)[:, None], LEAST, 1)
    assert len(ended) == THREADS - 1


def test_other_numbers_of_threads_are_followed() -> None:
    torch.set_num_threads(2)
    seen: list[int] = []
    in_slices(lambda rows: (seen.append(len(rows)), rows)[1], torch.zeros(6, 1), LEAST, 1)
    assert seen == [3, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_lanes_of_its_own() -> None:
    lanes(2, 1).map(lambda rows: rows, [torch.zeros(1)] * 2)
    child = os.fork()
    if not child:
        os._exit(int(len(lanes(2, 1).map(lambda rows: rows, [torch.zeros(1)] * 2)) != 2))
    assert os.waitpid(child, 0)[1] == 0
