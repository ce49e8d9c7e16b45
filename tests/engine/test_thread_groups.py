"""Groups of threads compute parts of a batch: the numbers stay the same, and so do the settings of the program."""

import os
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from oneclip.engine.thread_groups import MIN_TOKENS_PER_THREAD, get_thread_groups, run_chunked

THREADS = 3


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    own = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(own)


def test_rows_come_back_in_their_order() -> None:
    batch = torch.arange(50.0)[:, None]
    assert torch.equal(run_chunked(lambda rows: rows * 2, 1, MIN_TOKENS_PER_THREAD, batch), batch * 2)


def test_each_group_computes_with_its_share_of_the_threads() -> None:
    seen: list[tuple[str, int]] = []

    def compute(rows: Tensor) -> Tensor:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return rows

    run_chunked(compute, 1, MIN_TOKENS_PER_THREAD, torch.zeros(6, 1))
    assert len(seen) == THREADS
    assert {count for _, count in seen} == {1}
    assert all(name.startswith("oneclip-compute") for name, _ in seen)


def test_a_single_row_uses_all_threads() -> None:
    seen: list[int] = []
    run_chunked(lambda rows: (seen.append(torch.get_num_threads()), rows)[1], 1, 50, torch.zeros(1, 1))
    assert seen == [THREADS]


def test_the_program_keeps_its_number_of_threads() -> None:
    get_thread_groups(2, 1)
    assert torch.get_num_threads() == THREADS
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [THREADS]


def test_groups_compute_in_the_gradient_mode_of_the_caller() -> None:
    batch = torch.zeros(6, 1)
    with torch.inference_mode():
        assert run_chunked(lambda rows: rows + 1, 1, MIN_TOKENS_PER_THREAD, batch).is_inference()
    with torch.no_grad():
        plain = run_chunked(lambda rows: rows + 1, 1, MIN_TOKENS_PER_THREAD, batch)
    assert not plain.is_inference()
    assert not plain.requires_grad


def test_an_error_is_raised_once_all_groups_have_ended() -> None:
    ended: list[float] = []

    def compute(rows: Tensor) -> Tensor:
        if rows[0] == 0:
            raise MemoryError("not enough memory")
        ended.append(float(rows[0]))
        return rows

    with pytest.raises(MemoryError, match="not enough memory"):
        run_chunked(compute, 1, MIN_TOKENS_PER_THREAD, torch.arange(6.0)[:, None])
    assert len(ended) == THREADS - 1


def test_a_changed_number_of_threads_takes_effect() -> None:
    torch.set_num_threads(2)
    seen: list[int] = []
    run_chunked(lambda rows: (seen.append(len(rows)), rows)[1], 1, MIN_TOKENS_PER_THREAD, torch.zeros(6, 1))
    assert seen == [3, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_groups_of_its_own() -> None:
    get_thread_groups(2, 1).map(lambda rows: rows, [torch.zeros(1)] * 2)
    child = os.fork()
    if not child:
        os._exit(int(len(get_thread_groups(2, 1).map(lambda rows: rows, [torch.zeros(1)] * 2)) != 2))
    assert os.waitpid(child, 0)[1] == 0
