"""Run many small cases in subprocesses, with limits on time and memory, and return the outcomes.

The limit is on processor time, which does not depend on other programs.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS = 5.0  # limit of processor time for a case
SILENCE = 300.0  # limit of wall clock time, for cases that wait
MEMORY = 2 * 2**30  # limit of additional memory, in bytes
BATCH = 250  # number of cases per process

Case = tuple[str, Callable[[], object]]


@dataclass
class Outcome:
    """Outcome of a case.

    Attributes:
        kinds: classes of the error, the most particular first; none if there was none.
        message: of the error.
        seconds: of the processor.
        memory: bytes by which the process grew at most.
        ended: how the process ended in this case, if it did: "crash: …", "hang".
    """

    name: str
    kinds: list[str]
    message: str = ""
    seconds: float = 0.0
    memory: int = 0
    ended: str = ""

    @property
    def fault(self) -> str:
        """Return what is wrong; "" for a result or an error of our own."""
        if self.ended:
            return self.ended
        if self.kinds and "OneCLIPError" not in self.kinds:
            return f"{self.kinds[0]}: {self.message}"
        if self.seconds > SECONDS:
            return f"it took {self.seconds:.1f} s"
        return f"it took {self.memory / 1e9:.1f} GB" if self.memory > MEMORY else ""


def run(cases: Sequence[Case], before: Callable[[], object] = lambda: None) -> Iterator[Outcome]:
    """Run cases in order, up to `BATCH` per process; a case that crashes its process is its last.

    Args:
        cases: names and what is done.
        before: what each process does first, so that no case pays for what is imported and remembered.
    """
    done = 0
    while done < len(cases):
        for outcome in _in_a_process(cases[done : done + BATCH], before):
            done += 1
            yield outcome


def _in_a_process(cases: Sequence[Case], before: Callable[[], object]) -> Iterator[Outcome]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            _serve(cases, before, writing)
        finally:
            os._exit(0)
    os.close(writing)
    count, is_silent = 0, False
    with os.fdopen(reading, "r", encoding="utf-8") as lines:
        while True:
            if not select.select([lines], [], [], SILENCE)[0]:
                os.kill(child, signal.SIGKILL)
                is_silent = True
            line = lines.readline()
            if not line:
                break
            yield Outcome(**json.loads(line))
            count += 1
    _, status = os.waitpid(child, 0)
    if count < len(cases):
        name, number = cases[count][0], os.WTERMSIG(status)
        is_hang = is_silent or number == signal.SIGPROF
        how = "hang" if is_hang else f"crash: {signal.Signals(number).name if number else 'exit'}"
        yield Outcome(name, [], ended=how)


def _serve(cases: Sequence[Case], before: Callable[[], object], writing: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    before()
    for name, case in cases:
        outcome = observed(name, case)
        os.write(writing, (json.dumps(asdict(outcome)) + "\n").encode())


def observed(name: str, case: Callable[[], object]) -> Outcome:
    """Run a case in this process; SIGPROF ends the process if the case takes far too long."""
    _forget_high_water()
    before, began = _high_water(), time.process_time()
    outcome = Outcome(name, [])
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    _limit(_memory_now() + MEMORY)
    try:
        case()
    except BaseException as error:
        outcome.kinds = [kind.__name__ for kind in type(error).__mro__]
        outcome.message = str(error)[:300]
    _limit(resource.RLIM_INFINITY)
    signal.setitimer(signal.ITIMER_PROF, 0)
    outcome.seconds, outcome.memory = time.process_time() - began, _high_water() - before
    return outcome


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _memory_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _high_water() -> int:
    """Return the peak memory of the process since `_forget_high_water`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def _forget_high_water() -> None:
    Path("/proc/self/clear_refs").write_text("5")
