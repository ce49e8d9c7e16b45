"""Run many small cases in processes of their own, with a limit on time and memory, and say what came of each.

Time is that of the processor, which other programs of the machine do not make longer.
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

SECONDS = 5.0  # of the processor, that a case may take
SILENCE = 300.0  # seconds by the clock after which one that does not even compute is ended
MEMORY = 2 * 2**30  # bytes beyond what the process has when it begins
BATCH = 100  # cases of one process

Case = tuple[str, Callable[[], object]]


@dataclass
class Outcome:
    """What came of a case.

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
        """What is wrong with it; "" for a result, and for an error of ours."""
        if self.ended:
            return self.ended
        if self.kinds and "OneCLIPError" not in self.kinds:
            return f"{self.kinds[0]}: {self.message}"
        if self.seconds > SECONDS:
            return f"it took {self.seconds:.1f} s"
        return f"it took {self.memory / 1e9:.1f} GB" if self.memory > MEMORY else ""


def run(cases: Sequence[Case], before: Callable[[], object] = lambda: None) -> Iterator[Outcome]:
    """Run cases one after the other, a hundred in a process; a case that ends its process is the last one of it.

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
    """What a case comes to, in this process; it ends with SIGPROF if the case takes far too long."""
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
    """The most memory that the process had at once since `_forget_high_water`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def _forget_high_water() -> None:
    Path("/proc/self/clear_refs").write_text("5")
