"""Requests of broken and hostile clients: each must get an error in our shape, or a closed connection."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from PIL import Image

from soaking.good import SECRET, data_uri
from soaking.wire import CLOSED, Answer, Connection, encode

LARGE = 40_000_000  # bytes of a body; the limit is 32 MB
CHUNK = 2**18
PATIENCE = 120  # seconds in which everything must end
JSON = ("Content-Type", "application/json")
PNG = ("Content-Type", "image/png")
SLOW_STEPS = 20  # bytes that a slow client sends within the timeout of the server

Send = Callable[["Attack", Connection], Awaitable[Answer]]


class Attack(NamedTuple):
    """What a hostile client does.

    Attributes:
        data: that it sends.
        statuses: answers that are right; CLOSED for a closed connection.
        send: how it sends.
        more: further data, made while it is sent.
        pause: seconds, for those that need one.
    """

    data: bytes
    statuses: Sequence[int]
    send: Send
    more: Callable[[], Iterator[bytes]] = lambda: iter(())
    pause: float = 0.0


async def attack(port: int, one: Attack, gate: asyncio.Semaphore) -> tuple[int, str | None]:
    """Attack the server on a connection of its own.

    Args:
        port: of the server.
        one: the attack.
        gate: lets large bodies through one by one.

    Returns:
        The status of the answer, and what is wrong with it.
    """
    connection = Connection(port)
    try:
        async with asyncio.timeout(PATIENCE), gate if one.send is flood else asyncio.Semaphore():
            answer = await one.send(one, connection)
    except TimeoutError:
        return CLOSED, f"the connection is still open after {PATIENCE} s"
    finally:
        connection.abort()
    return answer.status, problem(answer, one.statuses)


def problem(answer: Answer, statuses: Sequence[int]) -> str | None:
    """Return what is wrong with an answer: its status, or the shape of its error."""
    if answer.status not in statuses:
        return f"{answer.status}; expected {' or '.join(map(str, statuses))}: {answer.body[:300]!r}"
    if answer.status in (CLOSED, 200):
        return None
    try:
        error = json.loads(answer.body)["error"]
        is_right = error.keys() == {"message", "type", "param", "code"} and isinstance(error["message"], str)
    except (ValueError, KeyError, TypeError, AttributeError):
        is_right = False
    return (
        None if is_right and len(answer.body) < 5000 else f"an error of another shape: {answer.body[:300]!r}"
    )


# -------------------------------------------------------------------------------------------------- ways of sending


async def whole(one: Attack, connection: Connection) -> Answer:
    """Send all at once."""
    with contextlib.suppress(ConnectionError):  # there may be an answer all the same
        await connection.send(one.data)
    return await connection.receive()


async def flood(one: Attack, connection: Connection) -> Answer:
    """Send until there is an answer."""
    await connection.send(one.data)
    receiving = asyncio.ensure_future(connection.receive())
    try:
        for part in one.more():
            await connection.send(part)
            if receiving.done():
                break
    except (ConnectionError, AssertionError):
        pass
    return await receiving


async def dribble(one: Attack, connection: Connection) -> Answer:
    """Send the first half, then byte after byte, with pauses."""
    half = len(one.data) // 2
    await connection.send(one.data[:half])
    receiving = asyncio.ensure_future(connection.receive())
    for at in range(half, len(one.data)):
        await asyncio.wait([receiving], timeout=one.pause)
        if receiving.done():
            break
        try:
            await connection.send(one.data[at : at + 1])
        except ConnectionError:
            break
    return await receiving


async def half_close(one: Attack, connection: Connection) -> Answer:
    """Send, and close this half of the connection."""
    await connection.send(one.data)
    connection.end_sending()
    return await connection.receive()


async def leave(one: Attack, connection: Connection) -> Answer:
    """Send, and leave without waiting for the answer."""
    await connection.send(one.data)
    await asyncio.sleep(one.pause)
    connection.abort()
    return Answer(CLOSED)


# --------------------------------------------------------------------------------------------------------- the kinds


class HostileRequests:
    """Attacks of all kinds.

    Args:
        images: files that can be read.
        timeout: of the server, in seconds.
    """

    def __init__(self, images: Sequence[bytes], timeout: float) -> None:
        self.images, self.timeout = images, timeout
        self.bombs = [
            *_huge_headers(images[0]),
            _png(20_000, 10_000, zlib.compress(bytes(10_000 * 2_501), 1), 1),
        ]
        text = SECRET.encode() + b"\0\0" + zlib.compress(bytes(50_000_000), 1)
        self.metadata_bombs = [
            _png(8, 8, zlib.compress(bytes(8 * 25)), 8, 2, _chunk(name, text)) for name in (b"zTXt", b"iCCP")
        ]
        self.kinds: dict[str, Callable[[Random], Attack]] = {
            "truncated image": self._truncated,
            "decompression bomb": self._bomb,
            "metadata bomb": self._metadata_bomb,
            "wrong type": self._wrong_type,
            "body of 40 MB": self._large,
            "slow body": self._slow_body,
            "slow headers": self._slow_headers,
            "half-closed": self._half_closed,
            "half a body": self._half_body,
            "cancelled": self._cancelled,
            "not HTTP": self._not_http,
            "huge headers": self._huge_header,
            "bad JSON": self._bad_json,
            "deep nesting": self._deep,
            "wrong content type": self._content_type,
            "not allowed": self._not_allowed,
            "too many": self._too_many,
        }

    def draw(self, kind: str, random: Random) -> Attack:
        """Make an attack of a kind."""
        return self.kinds[kind](random)

    def _truncated(self, random: Random) -> Attack:
        image = random.choice(self.images)
        return self._with_image(image[: random.randint(1, len(image) // 2)], random, (400,))

    def _bomb(self, random: Random) -> Attack:
        return self._with_image(random.choice(self.bombs), random, (400,))

    def _metadata_bomb(self, random: Random) -> Attack:
        """A text of 50 MB in 200 kB, beside pixels that can be read: they may be, but not it."""
        return self._with_image(random.choice(self.metadata_bombs), random, (200, 400))

    def _with_image(self, image: bytes, random: Random, statuses: Sequence[int]) -> Attack:
        """Send an image in one of the ways, alone or beside one that can be read."""
        good = self.images[0]
        file, other = (f"{SECRET}.png", image), ("good.png", good)
        immich = {"entries": '{"clip": {"visual": {"modelName": "pocket"}}}'}
        data = random.choice(
            (
                lambda: encode("POST", "/v1/images/embed", (PNG,), content=image),
                lambda: encode("POST", "/v1/images/embed", files=[("a", other), ("b", file)]),
                lambda: encode("POST", "/v1/embeddings", json={"input": ["a", {"image": data_uri(image)}]}),
                lambda: encode("POST", "/v2/embed", json={"images": [data_uri(good), data_uri(image)]}),
                lambda: encode("POST", "/v1/search", json={"like": data_uri(image)}),
                lambda: encode("POST", "/predict", data=immich, files={"image": file}),
                lambda: encode("POST", "/v1/classify", data={"labels": ["a", "b"]}, files={"images": file}),
            )
        )()
        return Attack(data, statuses, whole)

    def _wrong_type(self, random: Random) -> Attack:
        value = random.choice(
            (None, True, 5, 1e300, [], {}, [None], [[1]], {"image": 3}, [{"text": {}}], [""])
        )
        path, body = random.choice(
            (
                ("/v1/embeddings", {"input": value}),
                ("/v1/embeddings", {"input": SECRET, "dimensions": [SECRET]}),
                ("/v1/embeddings", {"messages": value}),
                ("/v2/embed", {"texts": value}),
                ("/v2/embed", {"inputs": [{"content": value}]}),
                ("/v1/classify", {"images": value, "labels": ["a", "b"]}),
                ("/v1/classify", {"images": [data_uri(self.images[0])], "labels": [value, SECRET]}),
                ("/v1/search", {"query": SECRET, "top": SECRET}),
                ("/v1/search", {"query": SECRET, "where": f"{SECRET} ="}),
                ("/v1/search", {"query": SECRET, SECRET: value}),
            )
        )
        return Attack(encode("POST", path, json=body), (400, 422), whole)

    def _large(self, random: Random) -> Attack:
        """A body above the limit, which its length says, or which ends only when it is there."""
        block = bytes(CHUNK)
        if random.random() < 0.5:
            head = _head("/v1/images/embed", PNG, ("Content-Length", str(LARGE)))
            return Attack(head, (413,), flood, lambda: (block for _ in range(LARGE // CHUNK)))
        head = _head("/v1/images/embed", PNG, ("Transfer-Encoding", "chunked"))
        part = b"%x\r\n%b\r\n" % (CHUNK, block)
        return Attack(head, (413,), flood, lambda: (part for _ in range(LARGE // CHUNK)))

    def _slow_body(self, random: Random) -> Attack:
        data = encode("POST", "/v1/images/embed", (PNG,), content=random.choice(self.images))
        return Attack(data, (408, CLOSED), dribble, pause=self.timeout / SLOW_STEPS)

    def _slow_headers(self, random: Random) -> Attack:
        data = _head("/v1/embeddings", JSON, ("X-Slow", SECRET * 1000))
        return Attack(data, (408, CLOSED), dribble, pause=self.timeout / SLOW_STEPS)

    def _half_closed(self, random: Random) -> Attack:
        data = encode("POST", "/v1/embeddings", json={"input": SECRET})
        return Attack(data, (200, CLOSED), half_close)

    def _half_body(self, random: Random) -> Attack:
        data = encode("POST", "/v1/images/embed", (PNG,), content=random.choice(self.images))
        return Attack(data[: random.randint(1, len(data) - 1)], (400, CLOSED), half_close)

    def _cancelled(self, random: Random) -> Attack:
        items = [{"image": data_uri(image)} for image in random.choices(self.images, k=16)]
        data = encode(
            "POST", "/v1/embeddings", json={"input": [*items, *[f"{SECRET} {i}" for i in range(16)]]}
        )
        end = random.choice((len(data), len(data), len(data) - 1, len(data) // 2))
        return Attack(data[:end], (CLOSED,), leave, pause=random.choice((0, 0.001, 0.01, 0.05)))

    def _not_http(self, random: Random) -> Attack:
        head, text = _head("/v1/embeddings", JSON), SECRET.encode()
        data = random.choice(
            (
                text + b"\r\n\r\n",
                b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
                b"GET http://[" + text + b" HTTP/1.1\r\n\r\n",
                bytes.fromhex("16030102000100") + bytes(range(256)) * 2,  # TLS
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                _head("/v1/embeddings", JSON, ("Content-Length", "-1")),
                _head("/v1/embeddings", JSON, ("Content-Length", "4"), ("Content-Length", "5")) + b"1234",
                _head("/v1/embeddings", JSON, ("Transfer-Encoding", "chunked")) + b"xyz\r\n" + text,
                head[:-2] + text + b"\r\n\r\n",
                head[:-2] + b"X: a\x00" + text + b"\r\n\r\n",
            )
        )
        return Attack(data, (400, 404, 422, CLOSED), half_close if random.random() < 0.2 else whole)

    def _huge_header(self, random: Random) -> Attack:
        headers = random.choice(
            (
                [("X-Huge", SECRET * 20_000)],
                [(f"X-{number}", SECRET * 100) for number in range(200)],
                [("Authorization", f"Bearer {'a' * 1_000_000}")],
            )
        )
        return Attack(_head("/v1/embeddings", JSON, *headers), (431,), flood)

    def _bad_json(self, random: Random) -> Attack:
        good = json.dumps({"input": [SECRET]}).encode()
        body = random.choice(
            (
                good[:-2],
                b'{"input": NaN}',
                b'{"input": "\xff"}',
                b'{"input": "\\ud800"}',
                b"{'input': 1}",
                good + b"x",
                b"\x00",
                b"",
            )
        )
        path = random.choice(("/v1/embeddings", "/v2/embed", "/v1/classify", "/v1/search"))
        return Attack(encode("POST", path, (JSON,), content=body), (400, 422), whole)

    def _deep(self, random: Random) -> Attack:
        depth = random.choice((100, 900, 100_000))
        start, end = random.choice(((b"[", b"]"), (b'{"content":', b"}")))
        nested = start * depth + b"1" + end * depth
        key = random.choice((b"input", b"messages"))
        body = random.choice((nested, b'{"%b": %b}' % (key, nested)))
        return Attack(encode("POST", "/v1/embeddings", (JSON,), content=body), (400, 422), whole)

    def _content_type(self, random: Random) -> Attack:
        path, given = random.choice(
            (
                ("/v1/embeddings", "text/plain"),
                ("/v1/embeddings", "multipart/form-data; boundary=x"),
                ("/v1/search", "application/x-www-form-urlencoded"),
                ("/v1/images/embed", "application/json"),
                ("/v1/images/embed", "multipart/form-data"),
                ("/v1/classify", "multipart/form-data; boundary="),
                ("/predict", SECRET),
            )
        )
        data = encode("POST", path, (("Content-Type", given),), content=b'{"input": "a cat"}')
        return Attack(data, (400, 415), whole)

    def _not_allowed(self, random: Random) -> Attack:
        body: dict[str, Any] = {"json": {"input": SECRET}}
        url = {"image": f"http://169.254.169.254/{SECRET}"}
        data = random.choice(
            (
                lambda: encode("POST", "/v1/embeddings", (("Host", f"{SECRET}.com"),), **body),
                lambda: encode("POST", "/v1/embeddings", (("Origin", f"https://{SECRET}.com"),), **body),
                lambda: encode("POST", "/v1/embeddings", (("Content-Encoding", "gzip"),), **body),
                lambda: encode("POST", "/v1/embeddings", json={"input": [url]}),
                lambda: encode("POST", "/v1/embeddings", json={"input": SECRET, "model": SECRET}),
                lambda: encode("GET", f"/v1/indexes/{SECRET}/thumbs/..%2F..%2Fetc%2Fpasswd"),
                lambda: encode("GET", f"/../../{SECRET}"),
                lambda: encode("DELETE", "/v1/indexes"),
            )
        )()
        return Attack(data, (400, 403, 404, 405, 415), whole)

    def _too_many(self, random: Random) -> Attack:
        path, body = random.choice(
            (
                ("/v1/embeddings", {"input": ["a"] * 3000}),
                ("/v1/embeddings", {"input": f"{SECRET} " * 50_000}),
                ("/v1/embeddings", {"input": [SECRET * 10_000] * 50}),
                ("/v2/embed", {"texts": ["a"] * 100_000}),
                ("/v1/search", {"query": [f"{SECRET} {number}" for number in range(100)]}),
                ("/v1/search", {"query": "a", "where": " or ".join(["width > 1"] * 900)}),
                ("/v1/classify", {"images": ["AAAA"], "labels": [f"{SECRET} {SECRET * 100}"] * 2}),
            )
        )
        return Attack(encode("POST", path, json=body), (400, 413, 422), whole)


def _head(path: str, *headers: tuple[str, str]) -> bytes:
    """Return the head of a request, whatever its headers are."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


def _huge_headers(image: bytes) -> list[bytes]:
    """Return small files whose headers promise 2,500 to 4,300 megapixels."""
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").save(file, "JPEG")
    jpeg = bytearray(file.getvalue())
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 65_500, 65_500)
    gif = (
        b"GIF89a" + struct.pack("<HH", 65_500, 65_500) + b"\0\0\0,\0\0\0\0" + b"\xff\xff\xff\xff\0\2\2D\1\0;"
    )
    bmp = (
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 1000, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6) + bytes(900)
    )
    return [_png(50_000, 50_000, zlib.compress(bytes(1000)), 8, 2), bytes(jpeg), gif, bmp]


def _png(width: int, height: int, pixels: bytes, depth: int, color: int = 0, more: bytes = b"") -> bytes:
    """Return a PNG.

    Args:
        width, height: in its header.
        pixels: compressed.
        depth, color: bits of a sample, and type of color.
        more: chunks before the pixels.
    """
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
