"""Encoder over an exported model, with the methods of `oneclip.Encoder`.

Shapes: N images, M texts, B batch, L tokens, D joint embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.encoding import BaseEncoder, Features, Images
from oneclip.encoding.encoded import Decode
from oneclip.encoding.pipeline import PendingFeatures
from oneclip.errors import CheckpointError, ConfigError, ShapeError
from oneclip.hub import sha256_of
from oneclip.image import FastPreprocess, Preprocess, Truncated
from oneclip.image.preprocess import apply_steps
from oneclip.runtime.exported_model import ExportedModel, Side
from oneclip.runtime.sessions import Arrays, Session, open_session
from oneclip.text import get_tokenizer
from oneclip.text.labels import probabilities

Pixels = NDArray[Any]
EPSILON = 1e-12  # smallest length that a vector is divided by, as in torch

_ONLY_IN_TORCH = ("caption", "explain", "inference", "model", "stream_captions", "to")  # of `oneclip.Encoder`


class _OnlyInTorchError(ConfigError, AttributeError):
    """Use of what only a model in torch has."""


class RuntimeEncoder(BaseEncoder):
    """An exported model with its preprocessing and its tokenizer. Each tower is loaded at its first use.

    Args:
        model: from `ExportedModel.open`.
        precision: of both towers; None for "fp32" if it was exported, else for the first that was.
        device: "cpu" or "cuda".
        max_pixels: images with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" or "accept" image files whose pixel data is incomplete.

    Attributes:
        exported: the model.
        cfg: configuration of the model that was exported.

    Raises:
        ConfigError: for a precision that was not exported, or an unknown device.
    """

    def __init__(
        self,
        model: ExportedModel,
        *,
        precision: str | None = None,
        device: str = "cpu",
        max_pixels: int | None = None,
        truncated: Truncated = "refuse",
    ) -> None:
        super().__init__(
            lambda: get_tokenizer(model.cfg.text_cfg, model.folder),
            name=model.name,
            max_pixels=max_pixels,
            truncated=truncated,
        )
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"device is {device!r}; an exported model runs on 'cpu' or 'cuda'")
        both = model.precisions
        self._exported_precision = precision or ("fp32" if "fp32" in both else both[0])
        self.exported, self.cfg, self.device = model, model.cfg, device
        self._towers = {side: model.select(side, self._exported_precision) for side in ("image", "text")}
        self._preprocess = Preprocess(model.preprocess_cfg)

    def __getstate__(self) -> dict[str, Any]:
        sessions = ("_image_session", "_text_session", "_find_tokenizer")
        return {name: value for name, value in vars(self).items() if name not in sessions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._find_tokenizer = lambda: get_tokenizer(self.exported.cfg.text_cfg, self.exported.folder)

    def __repr__(self) -> str:
        pixels = "x".join(map(str, self.image_size))
        runtime = self._towers["image"].runtime
        return f"<RuntimeEncoder {self.name}: {pixels} pixels, {self.embed_dim} numbers, {self.precision}, {runtime}>"

    def __getattr__(self, name: str) -> Any:
        if name in _ONLY_IN_TORCH:
            raise _OnlyInTorchError(
                f"{self.name} is an exported model, which has no {name!r}; load the model itself for that"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def embed_dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return self.exported.embed_dim

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of preprocessed images, in pixels."""
        size = self.preprocess_cfg.size
        return (size, size) if isinstance(size, int) else size

    @property
    def context_length(self) -> int:
        """L, the greatest number of tokens of a text."""
        return self.exported.context_length

    @property
    def precision(self) -> str:
        """Precision of the arithmetic: "fp32", whose embeddings are those of the model, or such as "onnx-int8"."""
        exported = self._exported_precision
        return exported if exported == "fp32" else f"{self._towers['image'].runtime}-{exported}"

    @property
    def logit_scale(self) -> float:
        """Factor of similarities before they become probabilities: the exponential of the model's parameter."""
        return self.exported.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """Number that is added to scaled similarities; None for a model trained with the softmax loss."""
        return self.exported.logit_bias

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of one PIL image; `preprocess.array` makes a (3, H, W) float32 array without torch."""
        return self._preprocess

    @property
    def preprocess_cfg(self) -> PreprocessCfg:
        """Configuration of `preprocess`."""
        return self.exported.preprocess_cfg

    def weights_digest(self) -> str:
        """Return the SHA-256 of the weights that were exported, see `Encoder.weights_digest`.

        That of a published export is of its files, because nothing says from which weights they were made.
        """
        if self.exported.weights:
            return self.exported.weights
        files = [self.exported.folder / name for tower in self._towers.values() for name in tower.files]
        return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()

    def pipeline(self, decode: Decode = "exact") -> RuntimePipeline:
        """Make the path of batches through the towers; `decode` is that of `encode_images`."""
        steps = self.preprocess if decode == "exact" else FastPreprocess(self.preprocess_cfg)
        return RuntimePipeline(self, steps)

    def encode_pixels(self, batch: NDArray[Any]) -> Features:
        """Run the image tower only: (B, 3, H, W) float32 as `preprocess.array` makes them, or uint8 if exported so.

        Returns:
            (B, D) float32 of unit length.

        Raises:
            ShapeError: if the batch has another shape or type.
            CheckpointError: if an embedding is not finite.
        """
        expected = np.uint8 if self.exported.uint8_input else np.float32
        if (
            not isinstance(batch, np.ndarray)
            or batch.shape[1:] != (3, *self.image_size)
            or batch.dtype != expected
        ):
            found = (
                f"{batch.dtype} {batch.shape}"
                if isinstance(batch, np.ndarray)
                else f"a {type(batch).__name__}"
            )
            raise ShapeError(
                f"the image tower of {self.name} takes an array (B, 3, {self.image_size[0]}, {self.image_size[1]}) of "
                f"{np.dtype(expected)}; found {found}"
            )
        return self._run(self._image_session, {self._towers["image"].inputs[0]: batch})

    def encode_tokens(self, ids: NDArray[Any]) -> Features:
        """Run the text tower only: (B, L) int64 ids, as `tokenizer.token_ids` makes them.

        Returns:
            (B, D) float32 of unit length.

        Raises:
            ShapeError: if the ids have another shape or type.
            CheckpointError: if an embedding is not finite.
        """
        if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ShapeError(
                f"the text tower of {self.name} takes an array (B, L) of integers; found {type(ids).__name__}"
            )
        values: Arrays = {}
        for name in self._towers["text"].inputs:
            values[name] = np.ascontiguousarray(ids, np.int64)
            if name == "attention_mask":
                used = (
                    ids != self.tokenizer.pad_token_id
                )  # up to the last: a text may contain the id of padding
                values[name] = np.maximum.accumulate(used[:, ::-1], axis=1)[:, ::-1].astype(np.int64)
        return self._run(self._text_session, values)

    def similarity(self, images: Images | Features, texts: str | Iterable[str] | Features) -> Features:
        """Compute the cosines (N, M), float32, of images and texts, or of their features (N, D) and (M, D).

        Raises:
            ShapeError: for features of another shape.
            ImageError, TextError: for images and texts that cannot be encoded.
        """
        is_features = isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f"
        image_features: Any = images if is_features else self.encode_images(images)
        text_features: Any = texts if isinstance(texts, np.ndarray) else self.encode_texts(texts)
        return _unit(image_features, self.embed_dim) @ _unit(text_features, self.embed_dim).T

    def probabilities(self, image_features: Features, text_features: Features) -> Features:
        """Compute the probabilities (N, M) of labels, see `Encoder.probabilities`."""
        bias = self.logit_bias
        logits = self.logit_scale * self.similarity(image_features, text_features) + (bias or 0.0)
        return probabilities(logits, independent=bias is not None)

    def token_ids(
        self,
        texts: Sequence[str],
        overflow: Literal["error", "truncate"] = "error",
        context_length: int | None = None,
    ) -> NDArray[np.int64]:
        """See `BaseEncoder.token_ids`."""
        tokenizer: Any = self.tokenizer
        tokenize = getattr(tokenizer, "token_ids", tokenizer)  # one that was assigned may only make tensors
        return np.asarray(tokenize(texts, context_length or self.context_length, overflow=overflow))

    def mean_of_prompts(self, features: Features, labels: int) -> Features:
        """See `BaseEncoder.mean_of_prompts`."""
        each = _normalized(features).reshape(labels, -1, features.shape[-1])
        return _normalized(each.mean(axis=1))

    @cached_property
    def _image_session(self) -> Session:
        return self._open("image")

    @cached_property
    def _text_session(self) -> Session:
        return self._open("text")

    def _open(self, side: Side) -> Session:
        """Open a tower; its files are compared with their checksums meanwhile."""
        tower = self._towers[side]
        with ThreadPoolExecutor(1) as pool:
            checked: Future[None] = pool.submit(self.exported.check_contents, tower)
            try:
                session = open_session(
                    tower.runtime, self.exported.folder / tower.file, tower.output, self.device
                )
            except CheckpointError:
                checked.result()  # a changed file is the better reason
                raise
            checked.result()
        return session

    def _run(self, session: Session, inputs: Arrays) -> Features:
        embeddings = session.run(inputs)
        if not np.isfinite(embeddings).all():
            raise CheckpointError(
                f"{self.name} returns features that are not finite numbers in {self.precision}; export it in fp32"
            )
        return embeddings if self.exported.is_normalized else _normalized(embeddings)


class RuntimePipeline:
    """Path of images and texts through the towers of an exported model.

    Args:
        encoder: of the model.
        steps: preprocessing of its images.

    Attributes:
        preprocess: one PIL image to an array for `start_images`; it can be called in threads.
        depth: 0: a batch is done when it is started.
    """

    depth = 0

    def __init__(self, encoder: RuntimeEncoder, steps: Preprocess | FastPreprocess) -> None:
        self._encoder, self._steps = encoder, steps
        self.preprocess: Callable[[Image.Image], Pixels] = _ArrayPreprocess(
            steps, encoder.exported.uint8_input
        )

    def start_images(self, pixels: Sequence[Pixels]) -> PendingFeatures:
        """Encode arrays (3, H, W), made by `preprocess`: (B, D) of unit length."""
        if not len(pixels):
            return lambda: np.empty((0, self._encoder.embed_dim), np.float32)
        embeddings = self._encoder.encode_pixels(np.stack(pixels))
        return lambda: embeddings

    def start_texts(self, ids: NDArray[np.int64]) -> PendingFeatures:
        """Encode token ids (B, L), cut after the longest text if the tower allows it."""
        if self._encoder.exported.dynamic_text_length:
            used = np.flatnonzero((ids != self._encoder.tokenizer.pad_token_id).any(axis=0))
            ids = ids[:, : max(2, used[-1] + 1 if len(used) else 0)]
        embeddings = self._encoder.encode_tokens(ids)
        return lambda: embeddings


class _ArrayPreprocess:
    """Preprocessing of an image to an array, of bytes if the tower normalizes them itself.

    Attributes:
        min_size: of `FastPreprocess`; None if images are decoded at their full size.
    """

    def __init__(self, steps: Preprocess | FastPreprocess, to_bytes: bool) -> None:
        self._steps, self._to_bytes = steps, to_bytes
        self.min_size = getattr(steps, "min_size", None)

    def __call__(self, image: Image.Image) -> Pixels:
        if not self._to_bytes:
            return self._steps.array(image)
        rows = np.asarray(apply_steps(self._steps.transforms[:-2], image))  # (H, W, 3)
        return np.ascontiguousarray(rows.transpose(2, 0, 1))


def _unit(features: object, width: int) -> Features:
    """Normalize features (N, width).

    Raises:
        ShapeError: if they have another shape, or are not floats.
    """
    if (
        not isinstance(features, np.ndarray)
        or features.shape[1:] != (width,)
        or features.dtype.kind not in "f"
    ):
        found = (
            f"{features.dtype} {features.shape}"
            if isinstance(features, np.ndarray)
            else type(features).__name__
        )
        raise ShapeError(
            f"features must be arrays of floats (N, {width}), as encode_images returns them; found {found}"
        )
    return _normalized(features)


def _normalized(features: NDArray[np.floating[Any]]) -> Features:
    wide = np.asarray(features, np.float32)
    lengths: Any = np.linalg.norm(wide, axis=-1, keepdims=True).astype(np.float32)
    normalized: Features = wide / np.maximum(lengths, np.float32(EPSILON))
    return normalized
