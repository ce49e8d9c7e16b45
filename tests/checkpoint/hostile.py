"""Writers of hostile pickles; each writes a file into an empty folder.

A writer returns the path to load: a file, an index or a folder. The command that a file tries to run is `touch ran` in
the current folder.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forged
import torch
from forged import call, mapping, name, number, record, tensor, text

Writer = Callable[[Path], Path]
FOUR = {"0": forged.floats(1, 2, 3, 4)}
WEIGHT = tensor("0", (4,))
COMMAND = text("touch ran")

CALLS = (  # module, name, arguments: functions of Python that run code, or lead to it
    ("os", "system", COMMAND),
    ("posix", "system", COMMAND),
    ("nt", "system", COMMAND),
    ("os", "popen", COMMAND),
    ("os", "execlp", COMMAND),
    ("subprocess", "Popen", COMMAND),
    ("subprocess", "getoutput", COMMAND),
    ("commands", "getoutput", COMMAND),
    ("pty", "spawn", COMMAND),
    ("platform", "popen", COMMAND),
    ("builtins", "eval", text("open('ran', 'w')")),
    ("builtins", "exec", text("open('ran', 'w')")),
    ("__builtin__", "eval", text("open('ran', 'w')")),
    ("builtins", "__import__", text("os")),
    ("builtins", "compile", text("1")),
    ("builtins", "open", text("ran"), text("w")),
    ("builtins", "getattr", name("os", "path"), text("join")),
    ("builtins", "map", text("x")),
    ("builtins", "type", text("x")),
    ("builtins", "object"),
    ("operator", "attrgetter", text("system")),
    ("operator", "methodcaller", text("system")),
    ("functools", "partial", name("os", "system")),
    ("functools", "reduce", name("os", "system")),
    ("itertools", "starmap", text("x")),
    ("importlib", "import_module", text("os")),
    ("runpy", "run_path", text("ran")),
    ("runpy", "_run_code", text("open('ran', 'w')")),
    ("timeit", "timeit", text("open('ran', 'w')")),
    ("cProfile", "run", text("open('ran', 'w')")),
    ("code", "InteractiveInterpreter"),
    ("types", "FunctionType"),
    ("types", "CodeType"),
    ("marshal", "loads", text("x")),
    ("pickle", "loads", text("x")),
    ("_pickle", "loads", text("x")),
    ("pickle", "Unpickler"),
    ("dill._dill", "_create_function"),
    ("cloudpickle.cloudpickle", "_make_function"),
    ("joblib.numpy_pickle", "load", text("x")),
    ("torch", "load", text("x")),
    ("torch.storage", "_load_from_bytes", text("x")),
    ("torch.serialization", "load", text("x")),
    ("torch.hub", "load", text("x"), text("y")),
    ("torch.jit", "load", text("x")),
    ("torch.utils._config_typing", "load", text("x")),
    ("torch.fx._symbolic_trace", "_exec"),
    ("torch._utils", "_rebuild_wrapper_subclass"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("torch._tensor", "_rebuild_from_type_v2", name("os", "system")),
    ("torch.nn.modules.linear", "Linear"),
    ("numpy", "load", text("x")),
    ("numpy", "fromfile", text("/etc/passwd")),
    ("numpy.testing._private.utils", "runstring", text("open('ran', 'w')")),
    ("codecs", "encode", text("x")),
    ("codecs", "open", text("ran"), text("w")),
    ("shutil", "rmtree", text(".")),
    ("socket", "create_connection"),
    ("urllib.request", "urlopen", text("http://localhost")),
    ("webbrowser", "open", text("http://localhost")),
    ("ctypes", "CDLL", text("libc.so.6")),
    ("multiprocessing.util", "spawnv_passfds"),
    ("asyncio.unix_events", "_UnixSubprocessTransport"),
    ("logging.config", "valid_ident", text("x")),
    ("collections", "OrderedDict.__init__.__globals__"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torch", "FloatStorage.__class__"),
    ("argparse", "Namespace.__init__.__globals__"),
    ("argparse", "FileType", text("w")),
    ("numpy", "dtype.__class__.__base__"),
    ("os\0", "system"),
    ("", ""),
)


class Gadget:
    """Object that runs a command when its pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch ran",)


class Restored:
    """Object that runs a command when its state is restored."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Restored, (), {"__class__": Gadget}

    def __setstate__(self, state: Any) -> None:
        Path("ran").touch()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def in_archive(content: bytes, **others: Any) -> Writer:
    return lambda folder: forged.archive(folder / "m.pt", content, FOUR, **others)


def in_script(gadget: bytes) -> Writer:
    return in_archive(record("__torch__.A", w=WEIGHT, x=gadget), others={"constants.pkl": b""})


def in_old_file(gadget: bytes) -> Writer:
    def write(folder: Path) -> Path:
        head = b"".join(
            pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        )
        body = b"\x80\x02" + mapping(w=WEIGHT, x=gadget) + b"."
        keys = pickle.dumps(["0"], 2)
        (folder / "m.pt").write_bytes(head + body + keys + struct.pack("<Q", 4) + FOUR["0"])
        return folder / "m.pt"

    return write


def saved(content: Any, **how: Any) -> Writer:
    def write(folder: Path) -> Path:
        torch.save(content, folder / "m.pt", **how)
        return folder / "m.pt"

    return write


def gadgets() -> Iterator[tuple[str, bytes]]:
    """Iterate over pickled values that try to call something, or are not valid."""
    for module, attribute, *arguments in CALLS:
        yield f"{module}.{attribute}", call(name(module, attribute), *arguments)
    system = name("os", "system")
    yield "INST", b"(" + COMMAND + b"i" + b"os\nsystem\n"
    yield "OBJ", b"(" + system + COMMAND + b"o"
    yield "NEWOBJ", system + b"(" + COMMAND + b"t\x81"
    yield "NEWOBJ_EX", system + b"(" + COMMAND + b"t}\x92"
    yield "STACK_GLOBAL", text("os") + text("system") + b"\x93(" + COMMAND + b"tR"
    yield "STACK_GLOBAL, dotted", text("torch") + text("serialization.os.system") + b"\x93(" + COMMAND + b"tR"
    yield "STACK_GLOBAL of numbers", number(1) + number(2) + b"\x93"
    for code, width in ((b"\x82", 1), (b"\x83", 2), (b"\x84", 4)):
        yield f"EXT{width}", code + (1).to_bytes(width, "little")
    yield "PERSID", b"Pos\n"
    yield "BINPERSID of a call", call(system, COMMAND) + b"Q"
    yield "BINPERSID of a number", number(1) + b"Q"
    yield "BINPERSID of a module", b"(" + text("module") + system + text("a") + text("b") + b"tQ"
    yield "BUILD on a name", name("torch", "FloatStorage") + mapping(__call__=system) + b"b"
    yield "BUILD with slots", record("__torch__.A") + b"N" + mapping(x=system) + b"\x86b"
    yield "a storage called", call(name("torch", "FloatStorage"), number(2**40))
    yield "text called", call(text("os.system"), COMMAND)
    yield "a record called", call(record("__torch__.A"), COMMAND)
    yield "a tensor of no storage", call(name("torch._utils", "_rebuild_tensor_v2"), b"N", b"N", b"N", b"N")
    yield "a parameter of no tensor", call(name("torch._utils", "_rebuild_parameter"), COMMAND)
    yield "pairs that are none", call(name("collections", "OrderedDict"), COMMAND)
    yield "a size of many", call(name("torch", "Size"), COMMAND, COMMAND)
    dtype = call(name("numpy", "dtype"), text("f8"))
    scalar = name("numpy.core.multiarray", "scalar")
    yield "a number of objects", call(scalar, call(name("numpy", "dtype"), text("O8")), b"C\x088" + bytes(7))
    yield "a number without bytes", call(scalar, dtype, text("x"))
    yield "a number that is too short", call(scalar, dtype, b"C\x01x")
    yield "bytes that are none", call(name("_codecs", "encode"), text("x"), text("zip"))
    yield "the memo of nothing", b"h\xff"
    yield "an instruction that there is not", b"\xff"
    yield "a string longer than the file", b"\x8d" + struct.pack("<Q", 2**63)
    yield "bytes longer than the file", b"\x8e" + struct.pack("<Q", 2**40)
    yield "an empty stack", b"0000000000"
    yield "a tuple of nothing", b"\x87\x87\x87"
    yield "a name without an end", b"c" + b"a" * 100
    yield "a name that is very long", b"c" + b"a" * 10**6 + b"\nb\n"
    yield "a list as a key", b"}]Ns"
    yield "a number as a key that is very large", b"}" + b"\x8a\xff" + b"\x7f" * 255 + b"Ns"


def bombs() -> Iterator[tuple[str, bytes]]:
    """Iterate over short pickles that would take much time or memory."""
    many = b"q\x00" + b"0" + b"".join(b"(" + b"h\x00" * 10 + b"lq\x00" + b"0" for _ in range(30)) + b"h\x00"
    yield "lists of lists of lists", b"]" + many
    pairs = b"](" + (text("a") + b"N\x86") * 50_000 + b"eq\x010"
    yield (
        "a dict made of the same pairs again and again",
        pairs
        + b"".join(call(name("collections", "OrderedDict"), b"h\x01") + b"0" for _ in range(20_000))
        + b"N",
    )
    numbers = b"](" + b"K\x01" * 200_000 + b"eq\x010"
    yield (
        "a size made of the same list again and again",
        numbers + b"".join(call(name("torch", "Size"), b"h\x01") + b"0" for _ in range(20_000)) + b"N",
    )
    items = b"}(" + b"".join(text(str(n)) + b"N" for n in range(50_000)) + b"uq\x010"
    yield "a state given again and again", items + record("__torch__.A") + b"h\x01b" * 100_000
    shape = b"((" + number(2**62) * 100_000 + b"tq\x01"
    layout = shape + b"h\x01"
    yield (
        "a shape of a hundred thousand axes",
        call(name("torch._utils", "_rebuild_tensor_v2"), _storage("0"), number(0), layout, b"\x89", b"N"),
    )
    yield "ten million instructions", b"]0" * 5_000_000 + b"N"
    yield "ten million marks", b"(" * 10_000_000
    yield "a pickle of fifty megabytes", b"B" + struct.pack("<I", 50_000_000) + bytes(50_000_000) + b"0N"
    collisions = b"".join(
        b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(1, 100_000)
    )
    yield "numbers that hash alike", b"}(" + collisions + b"u"
    nested = b"](" * 200_000 + b"e" * 200_000
    yield "lists two hundred thousand deep", nested
    long_names = (
        b"q\x02"
        + b"0"
        + b"".join(
            name("__torch__", "A") + b")\x81}" + text("n" * 1000) + b"h\x02sbq\x020" for _ in range(60)
        )
        + b"h\x02"
    )
    yield "names that grow", record("__torch__.A", w=WEIGHT) + long_names


def _storage(key: str, count: int = 4) -> bytes:
    return (
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text(key)
        + text("cpu")
        + number(count)
        + b"tQ"
    )


HARMLESS_AS_METADATA = ("lists of lists of lists", "names that grow")  # they are not expanded there

SHAPES: tuple[dict[str, Any], ...] = (
    {"shape": (5,), "count": 4},
    {"shape": (4,), "count": 4, "offset": 1},
    {"shape": (4,), "count": 4, "offset": -1},
    {"shape": (4,), "count": 4, "offset": 2**63},
    {"shape": (-4,), "count": 4},
    {"shape": (-2, -2), "count": 4},
    {"shape": (2, 2), "stride": (3, 1), "count": 4},
    {"shape": (2, 2), "stride": (-1, 1), "count": 4},
    {"shape": (2, 2), "stride": (2,), "count": 4},
    {"shape": (2, 2), "stride": (2, 1, 1), "count": 4},
    {"shape": (2**62, 4), "stride": (1, 1), "count": 4},
    {"shape": (2**32, 2**32), "stride": (0, 0), "count": 4},
    {"shape": (10**9,), "stride": (0,), "count": 4},
    {"shape": (1,) * 17, "count": 4},
    {"shape": (1,) * 1000, "count": 4},
    {"shape": (4,), "count": -4},
    {"shape": (4,), "count": 2**64},
    {"shape": (4,), "count": 2**40},
    {"shape": (2**20, 2**20)},
    {"shape": (5,)},
    {"shape": (4,), "storage": "DoubleStorage"},
    {"shape": (4,), "storage": "QInt8Storage"},
    {"shape": (4,), "storage": "UntypedStorage"},
)
KEYS = ("1", "../data.pkl", "/etc/passwd", "..", "", "a" * 300, "0\0", "data/0", "C:\\0")


def overlapping_tensors(count: int) -> bytes:
    """Pickle tensors that share one megabyte."""
    each = tensor("big", (2**18,))
    return b"}(" + b"".join(text(f"w{n}") + each for n in range(count)) + b"u"


def whole_pickles() -> Iterator[tuple[str, Writer]]:
    for kind, gadget in gadgets():
        if kind != "BUILD with slots":  # harmless in a state dict
            yield f"in a state dict: {kind}", in_archive(mapping(w=WEIGHT, x=gadget))
        yield f"in a script: {kind}", in_script(gadget)
        yield f"in an old file: {kind}", in_old_file(gadget)
    for kind, content in bombs():
        yield f"bomb: {kind}", in_archive(content)
        if kind not in HARMLESS_AS_METADATA and "million" not in kind:
            yield (
                f"bomb next to weights: {kind}",
                in_archive(mapping(state_dict=mapping(w=WEIGHT), x=content)),
            )
            yield f"bomb in an old file: {kind}", in_old_file(content)
    for given in SHAPES:
        yield f"shape in an archive: {given}", in_archive(mapping(w=tensor("0", **given)))
        yield f"shape in a script: {given}", in_script(tensor("0", **given))
    for key in KEYS:
        yield f"storage {key[:12]!r}", in_archive(mapping(w=tensor(key, (4,))))
    yield (
        "tensors that overlap",
        lambda folder: forged.archive(folder / "m.pt", overlapping_tensors(1000), {"big": bytes(2**20)}),
    )
    for zipped in (True, False):
        form = {"_use_new_zipfile_serialization": zipped}
        old = "" if zipped else ", old"
        yield f"a gadget as a weight{old}", saved({"w": Gadget()}, **form)
        yield f"a gadget as the whole{old}", saved(Gadget(), **form)
        yield (
            f"a gadget next to weights{old}",
            saved({"state_dict": {"w": torch.ones(2)}, "x": [Gadget()]}, **form),
        )
        yield f"an object with a state{old}", saved({"w": torch.ones(2), "x": Restored()}, **form)
        yield f"a module{old}", saved(torch.nn.Linear(2, 2), **form)
        yield f"no dict{old}", saved([torch.ones(2)], **form)

    def bare(folder: Path) -> Path:
        (folder / "m.pt").write_bytes(pickle.dumps(Gadget()))
        return folder / "m.pt"

    def nested(folder: Path) -> Path:
        inner = io.BytesIO()
        torch.save({"w": Gadget()}, inner)
        torch.save({"w": torch.ones(1), "inner": inner.getvalue(), "x": Gadget()}, folder / "m.pt")
        return folder / "m.pt"

    yield "a bare pickle", bare
    yield "a file in a file", nested
