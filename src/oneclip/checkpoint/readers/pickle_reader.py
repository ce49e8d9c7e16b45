"""Read pickles as plain data, with an interpreter that cannot call anything.

Python's own unpickler calls what the file names. This one implements only the instructions that checkpoints use and a
few names. The objects that it creates are numbers, strings, lists, dicts, tuples, descriptions of tensors, and
`Record`s, which have attributes and no behaviour. Anything else in a file is an error that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from oneclip.checkpoint.readers.read_errors import MalformedFile

# The pickle of the largest published checkpoint has less than 2 ** 22 bytes.
MAX_PICKLE_BYTES = 2**25
# Instructions, and elements that they process: one second, and ten times what checkpoints need.
MAX_WORK = 2**21
MAX_NESTING = 1000  # of lists and dicts inside each other
MAX_NAME_LENGTH = 1000
STATE_KEY = "(state)"


class PickleError(MalformedFile):
    """Reason why a pickle cannot be used."""


@dataclass(eq=False)
class Record:
    """Object of a class that the file names. It has only attributes; the class itself is not used.

    Attributes:
        kind: name of the class in the file, such as `__torch__.clip.model.CLIP`.
        attributes: its state, a dict or two dicts; any other state is stored under `STATE_KEY`.
    """

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict, repr=False)


class HashableRecord(Record):
    """Record that may be the key of a dict; two of them are never equal."""


@dataclass(frozen=True, eq=False)
class AllowedGlobal:
    """Class or function that a file may name.

    Attributes:
        make: builds a value from the arguments, instead of a call.
    """

    text: str
    make: Callable[[tuple[Any, ...]], Any]


FindGlobal: TypeAlias = Callable[[str, str], AllowedGlobal]
PersistentLoad: TypeAlias = Callable[[Any], Any]
_Instruction: TypeAlias = Callable[["_Machine"], None]


def read_pickle(data: bytes | bytearray, lookup: FindGlobal, persistent: PersistentLoad) -> Any:
    """Build the object that a pickle describes, in bounded time and memory.

    Args:
        data: the pickle.
        lookup: returns the `AllowedGlobal` for a module and a name, or raises PickleError.
        persistent: builds a value from a persistent id: the description of something stored outside the pickle.

    Raises:
        PickleError: if it is damaged, or refers to something that is not allowed.
    """
    return read_pickles(bytes(data), 1, lookup, persistent)[0][0]


def read_pickles(
    data: bytes, count: int, lookup: FindGlobal, persistent: PersistentLoad
) -> tuple[list[Any], int]:
    """Build the objects of several pickles that follow each other.

    Returns:
        The objects, and the offset of the end of the last pickle.

    Raises:
        PickleError: as for `read_pickle`.
    """
    machine = _Machine(data, lookup, persistent)
    try:
        return [machine.run() for _ in range(count)], machine.at
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, struct.error) as error:
        at = f"byte {machine.at} of its pickle"
        why = str(error)[:200]
        raise PickleError(f"it is damaged: {at} is not valid ({type(error).__name__}: {why})") from error


class _Machine:
    """State of the interpreter: the stack, its marks, and the memo of the current pickle."""

    def __init__(self, data: bytes, lookup: FindGlobal, persistent: PersistentLoad) -> None:
        if len(data) > MAX_PICKLE_BYTES:
            raise PickleError(
                f"the description of the tensors has {len(data):,} bytes; expected at most {MAX_PICKLE_BYTES:,}"
            )
        self.data, self.at = data, 0
        self.lookup, self.persistent = lookup, persistent
        self.work = 0

    def run(self) -> Any:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        while True:
            self.spend(1)
            code = self.take(1)[0]
            if code == ord("."):
                return self.stack.pop()
            action = _INSTRUCTIONS.get(code)
            if action is None:
                raise PickleError(
                    f"it uses a pickle instruction ({bytes([code])!r}) that checkpoints do not need"
                )
            action(self)

    def spend(self, work: int) -> None:
        """Count the cost of an instruction: a few instructions can process the same long list many times."""
        self.work += work
        if self.work > MAX_WORK:
            raise PickleError("its pickle has more instructions than any checkpoint needs")

    def take(self, count: int) -> bytes:
        """Return the next bytes of the file."""
        if count > len(self.data) - self.at:
            raise PickleError("it is truncated: its pickle ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode("utf-8")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Pop what was pushed after the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self) -> None:
        if len(self.marked) >= MAX_NESTING:
            raise PickleError("its lists and dicts are nested deeper than any checkpoint needs")
        self.marked.append(self.stack)
        self.stack = []

    def pop_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("pop from an empty stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        self.push(tuple(items))

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is not text")
        if len(module) + len(name) > MAX_NAME_LENGTH:
            raise PickleError("it uses a name that is longer than any name in a checkpoint")
        self.push(self.lookup(module, name))

    def stack_name(self) -> None:
        name = self.stack.pop()
        self.name(self.stack.pop(), name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, AllowedGlobal) or not isinstance(arguments, tuple):
            raise PickleError("it calls something that is not a function of a checkpoint")
        self.spend(sum(map(_length, arguments)))
        self.push(function.make(arguments))

    def build(self) -> None:
        """Set the state of an object: the attributes of a record. The state of a dict or a tensor is ignored."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            for part in parts:
                self.spend(_length(part))
                if isinstance(part, dict):
                    target.attributes.update((str(key), value) for key, value in part.items())
                elif part is not None:
                    target.attributes[STATE_KEY] = part
        elif isinstance(target, AllowedGlobal):
            raise PickleError(f"it changes {target.text}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_allowed_key(key):
                raise TypeError(f"a dict with a {type(key).__name__} for a key")
            target[key] = value

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("elements of something that is not a list")
        target.extend(items)

    def persist(self) -> None:
        description = self.stack.pop()
        self.spend(sum(map(_length, description)) if isinstance(description, tuple) else 0)
        self.push(self.persistent(description))

    def bytes_of(self, layout: str) -> bytes:
        return self.take(self.number(layout))

    def text_of(self, layout: str) -> str:
        return self.bytes_of(layout).decode("utf-8", "surrogatepass")

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()


def is_allowed_key(value: Any) -> bool:
    """Report whether a dict may have this key.

    Large numbers are not allowed, because many of them can have the same hash; nor tuples, whose hash can take years.
    """
    if isinstance(value, int):
        return abs(value) < 2**32
    return value is None or isinstance(value, str | bytes | float | HashableRecord)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | dict | str | bytes) else 0


_INSTRUCTIONS: dict[int, _Instruction] = {
    ord(key): action
    for key, action in {
        # frame and marks
        "\x80": lambda m: m.take(1) and None,  # protocol
        "\x95": lambda m: m.take(8) and None,  # length of a frame
        "(": lambda m: m.mark(),
        "0": lambda m: m.pop(),
        "1": lambda m: m.since_mark() and None,
        # constants
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "G": lambda m: m.push(m.number(">d")),
        "\x8a": lambda m: m.push(int.from_bytes(m.bytes_of("<B"), "little", signed=True)),
        "X": lambda m: m.push(m.text_of("<I")),
        "\x8c": lambda m: m.push(m.text_of("<B")),
        "\x8d": lambda m: m.push(m.text_of("<Q")),
        "U": lambda m: m.push(m.text_of("<B")),  # strings of Python 2
        "T": lambda m: m.push(m.text_of("<I")),
        "C": lambda m: m.push(m.bytes_of("<B")),
        "B": lambda m: m.push(m.bytes_of("<I")),
        "\x8e": lambda m: m.push(m.bytes_of("<Q")),
        "\x96": lambda m: m.push(m.bytes_of("<Q")),
        # collections
        "]": lambda m: m.push([]),
        "}": lambda m: m.push({}),
        ")": lambda m: m.push(()),
        "l": lambda m: m.push(m.since_mark()),
        "d": lambda m: m.push_dict(m.since_mark()),
        "\x8f": lambda m: m.push([]),  # a set, as a list
        "\x90": lambda m: m.append(m.since_mark()),
        "\x91": lambda m: m.push(m.since_mark()),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "\x85": lambda m: m.pop_tuple(1),
        "\x86": lambda m: m.pop_tuple(2),
        "\x87": lambda m: m.pop_tuple(3),
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.since_mark()),
        "s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
        "u": lambda m: m.set_items(m.since_mark()),
        # memo
        "q": lambda m: m.remember(m.number("<B")),
        "r": lambda m: m.remember(m.number("<I")),
        "\x94": lambda m: m.remember(len(m.memo)),
        "h": lambda m: m.push(m.memo[m.number("<B")]),
        "j": lambda m: m.push(m.memo[m.number("<I")]),
        # objects
        "c": lambda m: m.name(m.line(), m.line()),
        "\x93": lambda m: m.stack_name(),
        "R": lambda m: m.call(),
        "\x81": lambda m: m.call(),
        "b": lambda m: m.build(),
        "Q": lambda m: m.persist(),
    }.items()
}
