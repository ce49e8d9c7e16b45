"""Reproducible damage to files, random or by somebody who knows their format."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

INTEGERS = (
    0,
    1,
    -1,
    0x7F,
    0x80,
    0xFF,
    2**15,
    2**16 - 1,
    2**28,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
NUMBERS = ("-1", "0", "1e999", "NaN", "-0.5", "1.5", str(2**31), str(2**63), str(10**30), "9" * 400)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        1e308,
        2**31,
        2**70,
        "",
        "x",
        "../x",
        "/etc/passwd",
        "\0",
        "x" * 3000,
        "é\ud800",
    ),
    *([], {}, [[]], [None], {"": None}, ["x"] * 300),
)
NESTED = ("[" * 3000, '{"a":' * 3000, "(" * 3000, "[" * 100_000)


def mutated(content: bytes, random: random.Random) -> bytes:
    """Make a few changes to a file; the smallest is one bit."""
    for layer in (_in_zip, _in_gzip, _in_json, _in_text):
        if random.random() < 0.55 and (changed := layer(content, random)) is not None:
            return changed
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        content = random.choice(_CHANGES)(content, random)
    return content


def _place(content: bytes, random: random.Random) -> int:
    """Draw a position in a file, more often near its start or end, where headers are."""
    size = max(len(content), 1)
    near = min(size, 512)
    return random.choice((random.randrange(size), random.randrange(near), size - 1 - random.randrange(near)))


def _span(content: bytes, random: random.Random, most: int = 64) -> tuple[int, int]:
    at = _place(content, random)
    return at, min(len(content), at + random.randint(1, most))


def _bit(content: bytes, random: random.Random) -> bytes:
    at = _place(content, random)
    return (
        content[:at] + bytes(b ^ 1 << random.randrange(8) for b in content[at : at + 1]) + content[at + 1 :]
    )


def _bytes(content: bytes, random: random.Random) -> bytes:
    begin, end = _span(content, random, 8)
    return content[:begin] + random.randbytes(end - begin) + content[end:]


def _integer(content: bytes, random: random.Random) -> bytes:
    at, width = _place(content, random), random.choice((1, 2, 4, 8))
    number = random.choice(INTEGERS) % 256**width
    written = number.to_bytes(width, random.choice(("little", "big")))
    return content[:at] + written + content[at + width :]


def _cut(content: bytes, random: random.Random) -> bytes:
    return content[: _place(content, random)]


def _less(content: bytes, random: random.Random) -> bytes:
    begin, end = _span(content, random)
    return content[:begin] + content[end:]


def _more(content: bytes, random: random.Random) -> bytes:
    begin, end = _span(content, random)
    return content[:end] + content[begin:end] * random.choice((1, 2, 50)) + content[end:]


def _moved(content: bytes, random: random.Random) -> bytes:
    (begin, end), to = _span(content, random), _place(content, random)
    return content[:to] + content[begin:end] + content[to + end - begin :]


def _zeros(content: bytes, random: random.Random) -> bytes:
    begin, end = _span(content, random, 4096)
    return content[:begin] + bytes(end - begin) + content[end:]


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_bit, _bit, _bytes, _integer, _integer, _cut, _less, _more, _moved, _zeros),
)


def _in_zip(content: bytes, random: random.Random) -> bytes | None:
    """Change an entry of an archive, and write the archive again with valid checksums."""
    if not content.startswith(b"PK"):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    small = [name for name, data in entries.items() if data and len(data) < 100_000] or list(entries)
    name = random.choice(small)
    entries[name] = mutated(entries[name], random)
    if random.random() < 0.1:
        entries.pop(random.choice(list(entries)))
    written = io.BytesIO()
    how = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(written, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return written.getvalue()


def _in_gzip(content: bytes, random: random.Random) -> bytes | None:
    if not content.startswith(b"\x1f\x8b"):
        return None
    return gzip.compress(mutated(gzip.decompress(content), random), mtime=0)


def _in_json(content: bytes, random: random.Random) -> bytes | None:
    """Replace, remove or rename a value somewhere in JSON."""
    if content[:1] not in (b"{", b"["):
        return None
    try:
        whole = json.loads(content)
    except ValueError:
        return None
    holder, key = _any_holder(whole, random)
    if holder is None:
        return None
    change = random.random()
    if change < 0.1:
        del holder[key]
    elif change < 0.2 and isinstance(holder, dict):
        holder[random.choice(("", "x", key + "x", "name", "type"))] = holder.pop(key)
    elif change < 0.3 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * random.choice((-1, 2, 1000, 2**31))
    else:
        holder[key] = random.choice(VALUES)
    return json.dumps(whole).encode()


def _any_holder(whole: Any, random: random.Random) -> tuple[Any, Any]:
    """Choose a value in JSON, as its container and key."""
    holder, key = None, None
    while isinstance(whole, dict | list) and whole:
        holder, key = whole, random.choice(list(whole) if isinstance(whole, dict) else range(len(whole)))
        whole = whole[key]
        if random.random() < 0.3:
            break
    return holder, key


def _in_text(content: bytes, random: random.Random) -> bytes | None:
    """Replace a number, a word or a symbol in a text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    tokens = list(re.finditer(r"-?\d+(\.\d+)?|\w+|[^\w\s]", text[:200_000]))
    if not tokens:
        return None
    token = random.choice(tokens)
    other = random.choice(
        (
            *NUMBERS,
            "",
            '"',
            "'",
            "\n",
            "\0",
            ",",
            "\ufeff",
            "é",
            "x" * 2000,
            random.choice(NESTED),
            token[0] * 40,
        )
    )
    return (text[: token.start()] + other + text[token.end() :]).encode()
