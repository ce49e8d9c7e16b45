"""Embedder of the server: its numbers against the encoder, its limits, and what happens under load."""

import asyncio
import contextlib
import gc
import io
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import oneclip
from oneclip.errors import ImageTooLargeError, TextTooLongError
from oneclip.hardware import decoding_threads
from oneclip.serve.embedder import MAX_CHARACTERS, TEXTS_PER_IMAGE, Embedder
from oneclip.serve.errors import DeadlineError, ItemError, NotReadyError, QueueFullError, RequestError
from oneclip.serve.pending import PendingRequest
from oneclip.serve.settings import ServeSettings
from oneclip.serve.text_tokenizer import TextTokenizer

T = TypeVar("T")
LONG = 60.0  # seconds; a test that takes as long has failed
ROUNDING = 2e-6  # of a vector's numbers, between batches
TEXTS = ["a cat", "a dog", "", "a long text about the sun and the sea, and a house by the sea!", "a cat"]


@pytest.fixture(scope="module")
def embedder(encoder: oneclip.Encoder) -> Iterator[Embedder]:
    made = Embedder(encoder, ServeSettings())
    yield made
    made.close()


class WordTokenizer:
    """One token for each word, between 1 and 2."""

    context_length, vocab_size, pad_token_id = 8, 100, 0

    def __call__(
        self, texts: Any, context_length: int | None = None, *, overflow: str = "truncate"
    ) -> Tensor:
        length = context_length or self.context_length
        rows = [self.encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if overflow == "error" and any(len(row) + 2 > length for row in rows):
            raise TextTooLongError("too long")
        filled = [([1, *row[: length - 2], 2] + [0] * length)[:length] for row in rows]
        return torch.tensor(filled).reshape(-1, length)

    def encode(self, text: str) -> list[int]:
        return [3 + len(word) for word in text.split()]


class FakeEncoder(SimpleNamespace):
    """An encoder of one dimension: of an image its first pixel, of a text the number of its tokens.

    Attributes:
        batches: the inputs of all batches.
        read: the number of images that were preprocessed.
        open: clear it to hold both towers.
        entered: set once a batch has begun.
    """

    def __init__(self) -> None:
        super().__init__(
            embed_dim=1,
            context_length=8,
            tokenizer=WordTokenizer(),
            max_pixels=None,
            truncated="refuse",
            precision="fp32",
        )
        self.batches: list[list[Tensor]] = []
        self.read = 0
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def pipeline(self) -> Any:
        return SimpleNamespace(
            preprocess=self.preprocess, start_images=self.start, start_texts=self.start, depth=0
        )

    def token_ids(
        self, texts: Sequence[str], overflow: str = "error", context_length: int | None = None
    ) -> np.ndarray:
        return np.asarray(self.tokenizer(texts, context_length or self.context_length, overflow=overflow))

    def preprocess(self, image: Image.Image) -> Tensor:
        self.read += 1
        return torch.tensor(np.asarray(image)[0, 0, :1], dtype=torch.float32)

    def start(self, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        self.batches.append(list(inputs))
        self.entered.set()
        assert self.open.wait(LONG)
        return lambda: np.array([[float((one != 0).sum()) if len(one) > 1 else one[0]] for one in inputs])


@pytest.fixture
def fake() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def make(fake: FakeEncoder) -> Iterator[Callable[..., Embedder]]:
    """Make embedders of the fake encoder, which end with the test."""
    made: list[Embedder] = []

    def make(**settings: Any) -> Embedder:
        made.append(Embedder(fake, ServeSettings(**settings)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    fake.open.set()
    for embedder in made:
        embedder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, LONG))


def dots(*values: int) -> list[bytes]:
    """Make images of one color each."""
    found = []
    for value in values:
        Image.new("RGB", (2, 2), (value, 0, 0)).save(file := io.BytesIO(), "png")
        found.append(file.getvalue())
    return found


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def hold(fake: FakeEncoder, embedder: Embedder) -> "asyncio.Task[Any]":
    """Let the image tower work on one image until `fake.open` is set."""
    fake.open.clear()
    held = asyncio.create_task(embedder.embed_images(dots(255)))
    assert await asyncio.to_thread(fake.entered.wait, LONG)
    return held


def test_images_have_the_vectors_of_the_encoder(
    embedder: Embedder, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    found = run(embedder.embed_images(list(images.values())))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encoder.encode_images(list(images.values())), rtol=0, atol=ROUNDING)


def test_texts_have_the_vectors_of_the_encoder(embedder: Embedder, encoder: oneclip.Encoder) -> None:
    found, _ = run(embedder.embed_texts(TEXTS))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encoder.encode_texts(TEXTS), rtol=0, atol=ROUNDING)


def test_the_vector_of_an_image_does_not_depend_on_its_neighbours(
    embedder: Embedder, images: dict[str, bytes]
) -> None:
    async def main() -> tuple[Any, Any]:
        alone = [(await embedder.embed_images([image]))[0] for image in images.values()]
        together = await asyncio.gather(
            *(embedder.embed_images([i, *images.values()]) for i in images.values())
        )
        return np.array(alone), np.array([features[0] for features in together])

    assert embedder.is_batch_invariant
    np.testing.assert_allclose(*run(main()), rtol=0, atol=ROUNDING)


def test_the_vector_of_a_text_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    async def main() -> tuple[Any, Any]:
        alone = [(await embedder.embed_texts([text]))[0][0] for text in TEXTS]
        return np.array(alone), (await embedder.embed_texts([*TEXTS, *TEXTS[::-1]]))[0][: len(TEXTS)]

    np.testing.assert_allclose(*run(main()), rtol=0, atol=ROUNDING)


def test_int8_is_not_batch_invariant(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    fake.precision = "int8"
    assert not make().is_batch_invariant


def test_no_items_give_no_vectors(embedder: Embedder, encoder: oneclip.Encoder) -> None:
    assert run(embedder.embed_images([])).shape == (0, encoder.embed_dim)
    features, counts = run(embedder.embed_texts([]))
    assert features.shape == (0, encoder.embed_dim)
    assert counts == []


def test_tokens_are_counted_with_start_and_end(embedder: Embedder) -> None:
    _, counts = run(embedder.embed_texts(["a cat", "", "a cat, a dog!", "!"]))
    assert counts == [
        4,
        2,
        8,
        3,
    ]  # CLIP has a token for each of these words and signs; padding looks like "!"


def test_truncated_texts_count_as_what_the_model_reads(embedder: Embedder, encoder: oneclip.Encoder) -> None:
    _, counts = run(embedder.embed_texts(["cat " * 200, "a"], truncate=True))
    assert counts == [encoder.context_length, 3]


def test_special_tokens_of_another_tokenizer_are_counted(fake: FakeEncoder) -> None:
    def t5(texts: Any, length: int, overflow: str = "error") -> Any:
        if length < 1 + max(map(len, texts)):  # one end of text
            raise TextTooLongError("too long")

    fake.tokenizer = lambda *arguments, **options: t5(*arguments, **options)
    fake.tokenizer.encode = list
    assert TextTokenizer(fake).counts(["", "abc", "a" * 20]) == [1, 4, 8]  # type: ignore[arg-type]


def test_a_bad_image_fails_alone(
    embedder: Embedder, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    async def main() -> list[Any]:
        cat, dog = [images["cat"]], [images["car"], b"not an image"]
        return await asyncio.gather(
            *(embedder.embed_images(some) for some in (cat, dog, cat)), return_exceptions=True
        )

    first, error, last = run(main())
    assert isinstance(error, ItemError)
    assert error.index == 1
    for found in (first, last):
        np.testing.assert_allclose(found, encoder.encode_images(images["cat"]), rtol=0, atol=ROUNDING)


def test_the_first_of_several_bad_images_is_named(embedder: Embedder, images: dict[str, bytes]) -> None:
    good, bad = images["cat"], images["cat"][:2000]
    with pytest.raises(ItemError) as caught:
        run(embedder.embed_images([good, bad, good, b"", bad]))
    assert caught.value.index == 1


def test_the_first_text_that_is_too_long_is_named(embedder: Embedder) -> None:
    with pytest.raises(ItemError) as caught:
        run(embedder.embed_texts(["a cat", "a dog", "cat " * 100, "cat " * 200]))
    assert caught.value.index == 2
    assert isinstance(caught.value.error, TextTooLongError)


def test_an_image_of_too_many_pixels_is_refused(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    with pytest.raises(ItemError) as caught:
        run(make(max_pixels=3).embed_images(dots(1)))
    assert isinstance(caught.value.error, ImageTooLargeError)
    assert fake.read == 0


def test_a_fault_of_the_model_is_the_servers(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a bug")

    fake.tokenizer = fail
    with pytest.raises(RequestError) as caught:
        run(make().embed_texts(["a"]))
    assert caught.value.status == 500


def test_more_items_than_may_wait_are_refused(make: Callable[..., Embedder]) -> None:
    with pytest.raises(RequestError, match="5 images; expected at most 4") as caught:
        run(make(max_queue=4).embed_images(dots(*range(5))))
    assert caught.value.status == 413


def test_texts_of_too_many_characters_are_refused(make: Callable[..., Embedder]) -> None:
    with pytest.raises(RequestError, match="characters; expected at most") as caught:
        run(make().embed_texts(["a" * MAX_CHARACTERS, "a"]))
    assert caught.value.status == 413


def test_a_full_queue_refuses_and_has_room_again_later(
    make: Callable[..., Embedder], fake: FakeEncoder
) -> None:
    async def main() -> Any:
        embedder = make(max_queue=4)
        held = await hold(fake, embedder)
        waiting = asyncio.create_task(embedder.embed_images(dots(1, 2, 3)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="4 items wait"):
            await embedder.embed_texts(["a"])
        fake.open.set()
        await asyncio.gather(held, waiting)
        return await embedder.embed_texts(["a", "b", "c", "d"])

    assert run(main())[1] == [3, 3, 3, 3]


def test_a_request_that_takes_too_long_is_refused_and_its_items_are_dropped(
    make: Callable[..., Embedder], fake: FakeEncoder
) -> None:
    async def main() -> Any:
        embedder = make(timeout=0.3)
        held = await hold(fake, embedder)
        with pytest.raises(DeadlineError, match=r"0\.3 seconds"):
            await embedder.embed_images(dots(1, 2, 3))
        fake.open.set()
        await asyncio.gather(held, return_exceptions=True)
        return await embedder.embed_images(dots(4))

    assert run(main()).tolist() == [[4]]
    assert [batch[0].item() for batch in fake.batches] == [255, 4]


def test_a_cancelled_request_is_not_computed(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    async def main() -> Any:
        embedder = make(max_queue=101)
        held = await hold(fake, embedder)
        cancelled = asyncio.create_task(embedder.embed_images(dots(*range(100))))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        other = asyncio.create_task(embedder.embed_images(dots(*range(100))[::-1]))  # there is room for it
        fake.open.set()
        await held
        return await other

    assert run(main())[:, 0].tolist() == list(range(100))[::-1]
    assert sum(len(batch) for batch in fake.batches) == 101


def test_few_decoded_images_wait_for_the_model(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    most = 2 * 4 + decoding_threads()

    async def main() -> Any:
        embedder = make(max_batch=4)
        held = await hold(fake, embedder)
        request = asyncio.create_task(embedder.embed_images(dots(*range(100))))
        await until(lambda: fake.read == 1 + most)
        (
            await embedder.embed_texts([]),
            await embedder.run(lambda: None),
        )  # it does not keep others from threads
        assert fake.read == 1 + most
        fake.open.set()
        await held
        return await request

    assert run(main())[:, 0].tolist() == list(range(100))


def test_equal_texts_are_computed_once(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    features, counts = run(make().embed_texts(["a", "a b", "a", "a", "a b"]))
    assert features[:, 0].tolist() == counts == [3, 4, 3, 3, 4]
    assert sum(len(batch) for batch in fake.batches) == 2


def test_texts_of_similar_length_share_a_batch(make: Callable[..., Embedder], fake: FakeEncoder) -> None:
    texts = [" ".join("abcdef"[: 1 + i % 6]) + "x" * i for i in range(6 * TEXTS_PER_IMAGE)]
    features, _ = run(make(max_batch=1).embed_texts(texts))
    assert features[:, 0].tolist() == [3 + i % 6 for i in range(len(texts))]
    lengths = [[int((row != 0).sum()) for row in batch] for batch in fake.batches]
    assert lengths == [[length] * TEXTS_PER_IMAGE for length in range(3, 9)]


def test_close_answers_what_was_accepted_and_refuses_what_is_new(
    make: Callable[..., Embedder], fake: FakeEncoder
) -> None:
    async def main() -> list[Any]:
        embedder = make(max_batch=4)
        held = await hold(fake, embedder)
        accepted = [asyncio.create_task(embedder.embed_images(dots(*range(50)))) for _ in range(2)]
        accepted.append(asyncio.create_task(embedder.run(lambda: "done")))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(embedder.close))
        await until(lambda: embedder.is_closed)
        with pytest.raises(NotReadyError):
            await embedder.embed_images(dots(1))
        fake.open.set()
        await closing
        with pytest.raises(NotReadyError):
            await embedder.run(lambda: None)
        return await asyncio.gather(held, *accepted)

    _, first, second, done = run(main())
    assert first[:, 0].tolist() == second[:, 0].tolist() == list(range(50))
    assert done == "done"


def test_metrics_count_items_and_errors(make: Callable[..., Embedder]) -> None:
    async def main() -> str:
        embedder = make()
        await embedder.embed_images(dots(1, 2))
        await embedder.embed_texts(["a", "b", "c"])
        with pytest.raises(ItemError):
            await embedder.embed_images([b"x"])
        return embedder.metrics.render()[0].decode()

    text = run(main())
    assert 'oneclip_items_total{kind="image"} 3.0' in text
    assert 'oneclip_items_total{kind="text"} 3.0' in text
    assert 'oneclip_errors_total{kind="image"} 1.0' in text
    assert 'oneclip_queued_items{kind="image"} 0.0' in text
    assert 'oneclip_decode_seconds_count{kind="image"} 2.0' in text


def test_processes_share_their_metrics(tmp_path: Path) -> None:
    program = (
        "from oneclip.serve.metrics import Metrics; metrics = Metrics()\n"
        "metrics.request('/ping', 200, 0.5); print(metrics.render()[0].decode())"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for count in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
        assert f'oneclip_requests_total{{route="/ping",status="200"}} {count}.0' in done.stdout


def test_a_request_that_failed_is_freed_without_the_garbage_collector(
    make: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[PendingRequest]] = []

    def note(*arguments: Any) -> PendingRequest:
        request = PendingRequest(*arguments)
        made.append(weakref.ref(request))
        return request

    async def main() -> None:
        with contextlib.suppress(ItemError):
            await make().embed_images([b"x" * 1000, *dots(1, 2)])
        await until(lambda: made[0]() is None)

    monkeypatch.setattr("oneclip.serve.embedder.PendingRequest", note)
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()
