"""What does `oneclip serve` cost over calling the encoder, and how does it compare with infinity?

    python benchmarks/serving.py [--models ViT-B-32 pocket] [--rounds 7] [--infinity-python PATH]

The server runs in a process of its own, and this one is its client, on the same machine: 32 JPEGs of 640x480 in one
request, 64 clients that send one image at a time, one text, and 64 clients that send eight texts at a time. In each
round every task runs once on every side, and so does `Encoder` in this process, on the same images and texts; ratios
are medians over rounds. ViT-B-32 has random weights, "pocket" those of the package.

--infinity-python is the Python of an environment with `pip install "infinity-emb[torch,server,vision]" aiohttp`. That
server gets the same weights in the form of transformers.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contest import given, photographs
from contest.arena import ROOT, machine, ours

CLIENTS, IN_ONE, TEXTS_AT_ONCE, LATENCY_TURNS = 64, 32, 8, 20
START_SECONDS = 300
GOALS = {"32 images, form": 0.95, "64 clients, one image": 0.90}
NAMES = (
    "32 images, form",
    "32 images, JSON",
    "64 clients, one image",
    "64 clients, one image, JSON",
    "64 clients, 8 texts",
    "one text",
)


class Inputs:
    """Images and texts of all tasks.

    Args:
        folder: where to write files.
        turns: requests of each client.
    """

    def __init__(self, folder: Path, turns: int) -> None:
        photographs.write_jpegs(folder, CLIENTS * turns, (640, 480))
        self.images = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
        self.texts = given.captions(CLIENTS * turns * TEXTS_AT_ONCE)
        uris = [f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in self.images]
        self.uris = uris


def request(path: str, content_type: str, body: bytes, accept: str = "application/json") -> bytes:
    """Return a whole HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nAccept: {accept}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def form(images: Sequence[bytes]) -> tuple[str, bytes]:
    """Return the content type and the body of a form with files."""
    part = b'--limit\r\nContent-Disposition: form-data; name="%d"; filename="%d.jpg"\r\n\r\n%b\r\n'
    return "multipart/form-data; boundary=limit", b"".join(
        [*(part % (number, number, image) for number, image in enumerate(images)), b"--limit--\r\n"]
    )


def requests_of_ours(inputs: Inputs) -> dict[str, list[bytes]]:
    """Return the requests of each task to `oneclip serve`."""
    kind, binary = "application/json", "application/octet-stream"

    def embeddings(items: Sequence[Any]) -> bytes:
        return request("/v1/embeddings", kind, json.dumps({"input": items}).encode())

    images = [{"image": uri} for uri in inputs.uris]
    return {
        "32 images, form": [request("/v1/images/embed", *form(inputs.images[:IN_ONE]), binary)],
        "32 images, JSON": [embeddings(images[:IN_ONE])],
        "64 clients, one image": [
            request("/v1/images/embed", "image/jpeg", image, binary) for image in inputs.images
        ],
        "64 clients, one image, JSON": [embeddings([image]) for image in images],
        "64 clients, 8 texts": [embeddings(texts) for texts in _chunks(inputs.texts)],
        "one text": [embeddings(inputs.texts[:1])],
    }


def requests_of_infinity(inputs: Inputs) -> dict[str, list[bytes]]:
    """Return the requests of each task to infinity, which takes images in JSON only."""

    def embeddings(items: Sequence[str], modality: str = "text") -> bytes:
        body = {"model": "model", "input": items, "modality": modality}
        return request("/embeddings", "application/json", json.dumps(body).encode())

    return {
        "32 images, JSON": [embeddings(inputs.uris[:IN_ONE], "image")],
        "64 clients, one image, JSON": [embeddings([uri], "image") for uri in inputs.uris],
        "64 clients, 8 texts": [embeddings(texts) for texts in _chunks(inputs.texts)],
        "one text": [embeddings(inputs.texts[:1])],
    }


def tasks_of_encoder(encoder: Any, inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """Return what the encoder does with the same images and texts."""
    return {
        "32 images, form": lambda: encoder.encode_images(inputs.images[:IN_ONE]),
        "64 clients, one image": lambda: encoder.encode_images(inputs.images),
        "64 clients, 8 texts": lambda: encoder.encode_texts(inputs.texts),
        "one text": lambda: encoder.encode_texts(inputs.texts[:1]),
    }


def same_as(task: str) -> str:
    """Return the task of the encoder with the same images."""
    return {"32 images, JSON": "32 images, form"}.get(task, task.removesuffix(", JSON"))


def _chunks(texts: Sequence[str]) -> list[list[str]]:
    return [list(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]


async def send(port: int, requests: Sequence[bytes]) -> tuple[list[float], list[bytes]]:
    """Send requests one after another on one connection; return their seconds and the bodies of the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    seconds, bodies = [], []
    for one in requests:
        start = time.perf_counter()
        writer.write(one)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)\ncontent-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        seconds.append(time.perf_counter() - start)
        bodies.append(body)
        if " 200 " not in head.partition("\r\n")[0]:
            sys.exit(f"the server answered {head.splitlines()[0]}: {body[:500].decode(errors='replace')}")
    writer.close()
    return seconds, bodies


async def send_all(port: int, requests: Sequence[bytes]) -> tuple[list[float], list[bytes]]:
    """Send requests, spread over the clients; return as `send` does."""
    found = await asyncio.gather(
        *(send(port, requests[i::CLIENTS]) for i in range(min(CLIENTS, len(requests))))
    )
    return [s for seconds, _ in found for s in seconds], [found[0][1][0]]


@contextmanager
def serving(command: Sequence[str], ready: str, log: Path) -> Iterator[int]:
    """Start a server, and yield its port once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    if ready != "/ready":
        del environment["PYTHONPATH"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=output, stderr=output, env=environment
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not _is_ready(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def measure(model: str, folder: Path, inputs: Inputs, options: argparse.Namespace) -> None:
    """Measure all sides with one model, and print the result."""
    import oneclip

    place = model
    if model != "pocket":
        given.write_model(folder / model, model)
        place = str(folder / model / "model")
    encoder = oneclip.load(place, device="cpu")
    tasks = tasks_of_encoder(encoder, inputs)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    latencies: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        command = [sys.executable, "-m", "oneclip", "serve", "-m", place, "--no-page", "--timeout", "600"]
        sides = {
            "oneclip serve": (
                stack.enter_context(serving(command, "/ready", folder / "oneclip.log")),
                requests_of_ours(inputs),
            )
        }
        if options.infinity_python and model != "pocket":
            program = Path(options.infinity_python).with_name("infinity_emb")
            command = [str(program), "v2", "--engine", "torch"]
            command += ["--model-id", str(folder / model / "transformers"), "--served-model-name", "model"]
            command += ["--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1"]
            port = stack.enter_context(serving(command, "/health", folder / "infinity.log"))
            sides["infinity"] = port, requests_of_infinity(inputs)
        check(encoder, sides, inputs)
        for number in range(options.rounds + 1):
            for task in NAMES:
                if task in tasks:
                    taken = [_timed(tasks[task]) for _ in range(LATENCY_TURNS if task == "one text" else 1)]
                    seconds["encoder", task].append(statistics.median(taken))
                for side, (port, requests) in sides.items():
                    if task in requests:
                        turns = requests[task] * (LATENCY_TURNS if task == "one text" else 1)
                        way = send if task == "one text" else send_all
                        start = time.perf_counter()
                        each, _ = asyncio.run(way(port, turns))
                        whole = time.perf_counter() - start
                        seconds[side, task].append(statistics.median(each) if task == "one text" else whole)
                        latencies[side, task] += each if number else []
            if not number:  # a warm-up
                seconds.clear()
            print(f"{model}: round {number} of {options.rounds}", file=sys.stderr, flush=True)
    report(model, options.turns, seconds, latencies)


def check(encoder: Any, sides: dict[str, tuple[int, dict[str, list[bytes]]]], inputs: Inputs) -> None:
    """Exit unless all sides return the vectors of the encoder."""
    expected = {
        "32 images, JSON": encoder.encode_images(inputs.images[:IN_ONE]),
        "one text": encoder.encode_texts(inputs.texts[:1]),
    }
    for side, (port, requests) in sides.items():
        for task, vectors in expected.items():
            _, (body,) = asyncio.run(send(port, requests[task]))
            found = np.array([row["embedding"] for row in json.loads(body)["data"]])
            if not np.allclose(found, vectors, atol=1e-4):
                sys.exit(f"{side} returns other vectors for {task}")


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(
    model: str,
    turns: int,
    seconds: dict[tuple[str, str], list[float]],
    latencies: dict[tuple[str, str], list[float]],
) -> None:
    """Print speeds, ratios to the encoder, and latencies."""

    def ratio(task: str, side: str, other: str, more: float = 0.0) -> float:
        pairs = zip(
            seconds[other, task if other != "encoder" else same_as(task)], seconds[side, task], strict=True
        )
        return statistics.median((theirs + more) / mine for theirs, mine in pairs)

    counts = {"32": IN_ONE, "64": CLIENTS * turns, "on": 1}
    given.say(f"{model}, fp32; load average of the last minute: {os.getloadavg()[0]:.1f}")
    given.say(f"{'':44} {'a second':>10} {'x encoder':>10} {'goal':>6} {'p99, ms':>9} {'x infinity':>11}")
    for task in NAMES:
        for side in ("encoder", "oneclip serve", "infinity"):
            if (side, task) not in seconds:
                continue
            count = counts[task[:2]] * (TEXTS_AT_ONCE if "8 texts" in task else 1)
            line = f"{task + ', ' + side:44} {count / statistics.median(seconds[side, task]):>10.1f}"
            if side != "encoder":
                is_text = task == "one text"
                # for one text, the encoder's time and 2 ms
                line += f" {ratio(task, side, 'encoder', 0.002 if is_text else 0.0):>10.2f}"
                line += f" {0.9 if is_text else GOALS.get(task, ''):>6}"
                line += f" {1e3 * float(np.percentile(latencies[side, task], 99)):>9.1f}"
            if side == "oneclip serve" and ("infinity", task) in seconds:
                line += f" {ratio(task, side, 'infinity'):>11.2f}"
            given.say(line)
    given.say()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "pocket"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turns", type=int, default=2, help="requests of each of the 64 clients in a round")
    parser.add_argument("--infinity-python", metavar="PATH", help="Python of an environment with infinity")
    options = parser.parse_args()
    ours()
    given.say(machine())
    given.say("Ratios above 1 are in favour of the server; of one text: (encoder + 2 ms) / server.\n")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = Inputs(folder, options.turns)
        for model in options.models:
            measure(model, folder, inputs, options)


if __name__ == "__main__":
    main()
