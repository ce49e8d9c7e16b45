"""Requests that the server must answer rightly: each with what the encoder and the index in this process say.

Shapes: D joint embedding.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from soaking.wire import Answer, encode

if TYPE_CHECKING:
    from oneclip import Encoder
    from oneclip.search import Index

SECRET = "zanzibar"  # in all texts and names; the log must not have it
ROUNDING = 1e-5
PROBABILITY_ROUNDING = 1e-4  # similarities are multiplied by the logit scale, 100
NOUNS = ["cat", "dog", "car", "fish", "flower", "house", "sun", "tree", "apple", "boat", "horse", "cup"]
WORDS = ["red", "blue", "green", "small", "large", "old", "new", "bright", "dark", "round", "wooden", "happy"]
MORE_PATHS = ("/", "/docs", "/metrics", "/v1/models", "/v1/indexes", "/ready", "/ping", "/openapi.json")
SIZES = "batches of all sizes"
MANY_TEXTS, MANY_IMAGES = range(1, 81), range(1, 33)
BINARY = ("Accept", "application/octet-stream")


class GoodRequest(NamedTuple):
    """Request that must be answered with 200.

    Attributes:
        kind: for the report.
        data: the request as it is sent.
        problem: returns what is wrong with the answer to it, or None.
    """

    kind: str
    data: bytes
    problem: Callable[[Answer], str | None]


class GoodRequests:
    """Requests of all kinds, with the answers to them.

    Args:
        encoder: the model that is served.
        index: the index that is searched, opened in this process.
        name: of the index in addresses.
        images: the indexed files.
        count: of different texts, searches and classifications.
    """

    def __init__(
        self, encoder: Encoder, index: Index, name: str, images: Sequence[Path], count: int, seed: int = 0
    ) -> None:
        random = Random(seed)
        self.index_name, self.indexed = name, [path.read_bytes() for path in images]
        self.texts = [
            f"{SECRET} {random.choice(WORDS)} {random.choice(NOUNS)} {number}" for number in range(count)
        ]
        self.images = [*self.indexed, *(vary(image, random) for image in self.indexed for _ in range(2))]
        self.large = _flat_png(2400, 1800)
        self.text_features = encoder.encode_texts(self.texts)
        self.image_features = encoder.encode_images([*self.images, self.large])
        self.searches = [self._search(index, random, text) for text in self.texts]
        self.classifications = [self._classification(encoder, random, text) for text in self.texts]
        self.kinds: dict[str, Callable[[Random], tuple[bytes, Callable[[Answer], str | None]]]] = {
            "openai, float": partial(self._openai, encoding_format="float"),
            "openai, base64": partial(self._openai, encoding_format="base64"),
            "openai, messages": self._messages,
            "cohere, texts": self._cohere_texts,
            "cohere, images": self._cohere_images,
            "image file, JSON": self._image_file,
            "image file, float32": partial(self._image_file, headers=(BINARY,)),
            "image file, large": self._large_file,
            "image files, form": self._image_files,
            "immich, image": self._immich_image,
            "immich, text": self._immich_text,
            "classify": self._classify,
            "classify, form": self._classify_form,
            "search": self._search_request,
            "thumbnail": self._thumbnail,
            "other": self._other,
        }

    def draw(self, kind: str, random: Random) -> GoodRequest:
        """Make a request of a kind."""
        return GoodRequest(kind, *self.kinds[kind](random))

    def sizes(self) -> Iterator[GoodRequest]:
        """Make requests with all numbers of images and texts that other requests together may have in a batch."""
        for texts, images in [*((count, 0) for count in MANY_TEXTS), *((0, count) for count in MANY_IMAGES)]:
            some = [number % len(self.texts) for number in range(texts)]
            others = [number % len(self.images) for number in range(images)]
            yield GoodRequest(SIZES, *self._embeddings(some, others, "float"))

    # ------------------------------------------------------------------------------------------------ embeddings

    def _openai(self, random: Random, encoding_format: str) -> tuple[bytes, Any]:
        texts, images = self._some(random, self.texts), self._some(random, self.images)
        return self._embeddings(texts, images, encoding_format)

    def _embeddings(
        self, texts: list[int], images: list[int], encoding_format: str
    ) -> tuple[bytes, Callable[[Answer], str | None]]:
        items = [self.texts[i] for i in texts] + [{"image": data_uri(self.images[i])} for i in images]
        body = {"input": items, "model": "pocket", "encoding_format": encoding_format}
        expected = np.concatenate([self.text_features[texts], self.image_features[images]])

        def rows(answer: Any) -> Any:
            found = [item["embedding"] for item in answer["data"]]
            is_float = encoding_format == "float"
            return found if is_float else [np.frombuffer(base64.b64decode(row), "<f4") for row in found]

        return encode("POST", "/v1/embeddings", json=body), vectors_are(expected, rows)

    def _messages(self, random: Random) -> tuple[bytes, Any]:
        text, image = random.randrange(len(self.texts)), random.randrange(len(self.images))
        parts = [
            {"type": "text", "text": self.texts[text]},
            {"type": "image_url", "image_url": {"url": data_uri(self.images[image])}},
        ]
        mean = self.text_features[text] + self.image_features[image]
        expected = (mean / np.linalg.norm(mean))[None]
        data = encode("POST", "/v1/embeddings", json={"messages": [{"role": "user", "content": parts}]})
        return data, vectors_are(expected, lambda answer: [item["embedding"] for item in answer["data"]])

    def _cohere_texts(self, random: Random) -> tuple[bytes, Any]:
        texts = self._some(random, self.texts)
        body = {"texts": [self.texts[i] for i in texts], "input_type": "search_query"}
        return self._cohere(body, self.text_features[texts])

    def _cohere_images(self, random: Random) -> tuple[bytes, Any]:
        images = self._some(random, self.images)
        body = {"images": [data_uri(self.images[i]) for i in images], "embedding_types": ["float", "int8"]}
        return self._cohere(body, self.image_features[images])

    def _cohere(self, body: dict[str, Any], expected: Any) -> tuple[bytes, Any]:
        return encode("POST", "/v2/embed", json=body), vectors_are(
            expected, lambda answer: answer["embeddings"]["float"]
        )

    def _image_file(self, random: Random, headers: Sequence[tuple[str, str]] = ()) -> tuple[bytes, Any]:
        return self._file(random.randrange(len(self.images)), self.images, headers)

    def _large_file(self, random: Random) -> tuple[bytes, Any]:
        return self._file(len(self.images), [*self.images, self.large])

    def _file(
        self, number: int, images: Sequence[bytes], headers: Sequence[tuple[str, str]] = ()
    ) -> tuple[bytes, Any]:
        headers = [("Content-Type", "image/png"), *headers]
        data = encode("POST", "/v1/images/embed", headers, content=images[number])
        expected = self.image_features[[number]]
        if BINARY in headers:
            return data, binary_is(expected)
        return data, vectors_are(expected, lambda answer: [item["embedding"] for item in answer["data"]])

    def _image_files(self, random: Random) -> tuple[bytes, Any]:
        images = self._some(random, self.images)
        files = [("images", (f"{SECRET}.png", self.images[i])) for i in images]
        data = encode("POST", "/v1/images/embed", (BINARY,), files=files)
        return data, binary_is(self.image_features[images])

    def _immich_image(self, random: Random) -> tuple[bytes, Any]:
        i = random.randrange(len(self.images))
        data = encode(
            "POST",
            "/predict",
            data={"entries": '{"clip": {"visual": {"modelName": "pocket"}}}'},
            files={"image": (f"{SECRET}.png", self.images[i])},
        )
        size = Image.open(io.BytesIO(self.images[i])).size

        def rows(answer: Any) -> Any:
            is_right_size = (answer["imageWidth"], answer["imageHeight"]) == size
            return [json.loads(answer["clip"])] if is_right_size else []

        return data, vectors_are(self.image_features[[i]], rows)

    def _immich_text(self, random: Random) -> tuple[bytes, Any]:
        i = random.randrange(len(self.texts))
        form = {"entries": '{"clip": {"textual": {"modelName": "pocket"}}}', "text": self.texts[i]}
        data = encode("POST", "/predict", data=form)
        return data, vectors_are(self.text_features[[i]], lambda answer: [json.loads(answer["clip"])])

    def _some(self, random: Random, values: Sequence[Any]) -> list[int]:
        return random.sample(range(len(values)), random.randint(1, 4))

    # ----------------------------------------------------------------------------------- classification and search

    def _classification(self, encoder: Encoder, random: Random, text: str) -> dict[str, Any]:
        i, labels = random.randrange(len(self.images)), [text, *random.sample(NOUNS, 4)]
        body = {"labels": labels} | ({"template": "a drawing of {}"} if random.random() < 0.5 else {})
        expected = encoder.classify(self.images[i], labels, body.get("template"))
        return {"image": self.images[i], "body": body, "expected": expected}

    def _classify(self, random: Random) -> tuple[bytes, Any]:
        drawn = random.choice(self.classifications)
        body = {"images": [data_uri(drawn["image"])], **drawn["body"]}
        return encode("POST", "/v1/classify", json=body), labels_are(drawn["expected"])

    def _classify_form(self, random: Random) -> tuple[bytes, Any]:
        drawn = random.choice(self.classifications)
        files = {"images": (f"{SECRET}.png", drawn["image"])}
        return encode("POST", "/v1/classify", data=drawn["body"], files=files), labels_are(drawn["expected"])

    def _search(self, index: Index, random: Random, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw the body of a search, and search."""
        body: dict[str, Any] = {"query": text, "top": random.randint(1, 10)}
        arguments: dict[str, Any] = {"top_k": body["top"]}
        if random.random() < 0.3:
            image = random.choice(self.indexed)
            sha256 = hashlib.sha256(image).hexdigest()
            body["like"] = {"sha256": sha256} if random.random() < 0.5 else data_uri(image)
            arguments["like"] = Image.open(io.BytesIO(image))
        if random.random() < 0.3:
            body["not"] = arguments["exclude"] = f"a {random.choice(NOUNS)}"
        if random.random() < 0.3:
            body["where"] = arguments["where"] = f"width >= {random.randint(1, 300)}"
        return body, index.search(text, **arguments).to_dict()

    def _search_request(self, random: Random) -> tuple[bytes, Any]:
        body, expected = random.choice(self.searches)

        def problem(found: Any) -> str | None:
            return differ({key: found.get(key) for key in expected}, expected)

        return encode("POST", "/v1/search", json=body), json_is(problem)

    # -------------------------------------------------------------------------------------------------------- other

    def _thumbnail(self, random: Random) -> tuple[bytes, Any]:
        image, pixels = random.choice(self.indexed), random.choice((256, 1600))
        sha256 = hashlib.sha256(image).hexdigest()
        path = f"/v1/indexes/{self.index_name}/thumbs/{sha256}?size={pixels}"
        return encode("GET", path), thumbnail_is(Image.open(io.BytesIO(image)).convert("RGB"), pixels)

    def _other(self, random: Random) -> tuple[bytes, Any]:
        path = random.choice(MORE_PATHS)
        return encode("GET", path), lambda answer: None if answer.body else f"{path} is empty"


# ------------------------------------------------------------------------------------------------------------ answers


def json_is(problem: Callable[[Any], str | None]) -> Callable[[Answer], str | None]:
    """Return a function that says what is wrong with an answer in JSON."""

    def check(answer: Answer) -> str | None:
        try:
            return problem(json.loads(answer.body))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return f"{type(error).__name__}: {error} in {answer.body[:300]!r}"

    return check


def vectors_are(expected: Any, rows: Callable[[Any], Any]) -> Callable[[Answer], str | None]:
    """Return a function that compares the vectors (N, D) of an answer in JSON."""
    return json_is(lambda answer: _other_vectors(np.array(rows(answer), np.float32), expected))


def binary_is(expected: Any) -> Callable[[Answer], str | None]:
    """Return a function that compares the vectors (N, D) of an answer in bytes."""

    def check(answer: Answer) -> str | None:
        found = np.frombuffer(answer.body, "<f4")
        is_whole = found.size == expected.size
        return _other_vectors(found.reshape(expected.shape) if is_whole else found, expected)

    return check


def _other_vectors(found: Any, expected: Any) -> str | None:
    if found.shape != expected.shape:
        return f"vectors of shape {found.shape}; expected {expected.shape}"
    difference = float(np.abs(found - expected).max())
    return None if difference <= ROUNDING else f"vectors differ by {difference:.2g}"


def labels_are(expected: Sequence[tuple[str, float]]) -> Callable[[Answer], str | None]:
    """Return a function that compares labels and probabilities of one image."""

    def problem(found: Any) -> str | None:
        (image,) = found["images"]
        ranking = [[one["label"], one["probability"]] for one in image["labels"]]
        return differ(ranking, list(map(list, expected)), PROBABILITY_ROUNDING)

    return json_is(problem)


def differ(found: Any, expected: Any, rounding: float = ROUNDING) -> str | None:
    """Return where two values of JSON differ by more than rounding, or None."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        pairs = [(found[key], value) for key, value in expected.items()]
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = list(zip(found, expected, strict=True))
    elif isinstance(expected, float) and isinstance(found, float | int):
        return None if abs(found - expected) <= rounding else f"{found} in place of {expected}"
    else:
        return None if found == expected else f"{found!r:.300} in place of {expected!r:.300}"
    return next((where for pair in pairs if (where := differ(*pair, rounding))), None)


def thumbnail_is(original: Image.Image, pixels: int) -> Callable[[Answer], str | None]:
    """Return a function that compares a JPEG with the image that it was made of."""

    def check(answer: Answer) -> str | None:
        found = Image.open(io.BytesIO(answer.body)).convert("RGB")
        if max(found.size) != min(pixels, max(original.size)):
            return f"a thumbnail of {found.size}"
        difference = np.abs(
            np.asarray(found, np.float32) - np.asarray(original.resize(found.size), np.float32)
        )
        return None if difference.mean() < 10 else f"a thumbnail of something else: {difference.mean():.1f}"

    return check


# ------------------------------------------------------------------------------------------------------------- images


def data_uri(image: bytes) -> str:
    """Return an image as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def vary(image: bytes, random: Random) -> bytes:
    """Return an image in another size, another mode and another format."""
    mode, form = random.choice(
        (("RGB", "JPEG"), ("L", "PNG"), ("RGB", "WEBP"), ("RGBA", "PNG"), ("P", "GIF"))
    )
    size = random.randint(40, 640), random.randint(40, 480)
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize(size).convert(mode).save(file, form)
    return file.getvalue()


def _flat_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG", compress_level=1)
    return file.getvalue()
