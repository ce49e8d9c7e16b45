"""Encoder of images and texts: a model with its preprocessing and its tokenizer.

It reads images in threads, makes batches, moves them to the device, and sorts texts by length.

Shapes: N items, M labels, B items of a batch, L tokens, D joint embedding, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.config import ModelCfg, PreprocessCfg, as_pair
from oneclip.config.precision import PLAN_PRECISIONS, torch_dtype
from oneclip.encoder.array_types import (
    Array,
    are_image_features,
    are_text_features,
    as_tensor,
    cosine_similarity,
    match_type,
)
from oneclip.encoder.captioning import CaptionedImages, Captioner
from oneclip.encoder.checks import check_int8, check_model
from oneclip.encoder.pipeline import EncodePipeline
from oneclip.encoding.base import BaseEncoder, count_images
from oneclip.encoding.checks import check_preprocess
from oneclip.encoding.encoded import Decode, Features, Images, Labels, Raise, Skip
from oneclip.engine import InferenceModel, logit_scale_and_bias, mean_class_embeddings, resolve_device
from oneclip.explain import Maps, Method, explain
from oneclip.explain.towers import shared_copy
from oneclip.image import FastPreprocess, Preprocess, Truncated
from oneclip.image.decode import ImageSource
from oneclip.image.prefetch import is_single_image
from oneclip.model import CLIP, CustomTextCLIP
from oneclip.progress import Progress, report_progress
from oneclip.text import Tokenizer
from oneclip.text.labels import Templates, probabilities


class Encoder(BaseEncoder):
    """A model with its preprocessing and its tokenizer.

    Each of the three can be assigned, and takes effect at the next call. An encoder can be copied and pickled; the copy
    builds inference plans of its own.

    Args:
        model: on its device and in its precision; it is put in evaluation mode.
        preprocess: one image to one (3, H, W) tensor.
        tokenizer: texts to (N, L) ids; or a function that returns it, called at the first text, if its files may be
            missing.
        cfg: the configuration that the model was built from.
        name: of the model in messages and stored results.
        max_pixels: images with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" or "accept" image files whose pixel data is incomplete.
        precision: of the arithmetic, see `InferenceModel`; None for that of the weights.

    Attributes:
        inference: the model with its inference plans; `inference.describe()` says what computes each tower.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        preprocess: Preprocess,
        tokenizer: Tokenizer | Callable[[], Tokenizer],
        cfg: ModelCfg,
        *,
        name: str,
        max_pixels: int | None = None,
        truncated: Truncated = "refuse",
        precision: str | None = None,
    ) -> None:
        super().__init__(tokenizer, name=name, max_pixels=max_pixels, truncated=truncated)
        self.cfg, self._preprocess, self._precision = cfg, preprocess, precision
        self._set_model(model)

    def _set_model(self, model: CLIP | CustomTextCLIP) -> None:
        self.inference = InferenceModel(model, self._input_size(model), self.name, self._precision)

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in vars(self).items() if k != "inference"}, "model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({k: v for k, v in state.items() if k != "model"})
        self._set_model(state["model"])

    def __repr__(self) -> str:
        pixels = "x".join(map(str, self.image_size))
        facts = f"{pixels} pixels, {self.embed_dim} numbers, {self.precision}, {self.device}"
        return f"<Encoder {self.name}: {facts}>"

    @property
    def model(self) -> CLIP | CustomTextCLIP:
        """The `torch.nn.Module`, in evaluation mode.

        A model that is assigned is put in evaluation mode and stays on its device. It computes in the precision that
        was requested for the encoder, or else in that of its weights.

        Raises:
            ConfigError: when assigned, if it is not a model of oneclip, open_clip or clip, or has another width.
        """
        return self.inference.model

    @model.setter
    def model(self, model: CLIP | CustomTextCLIP) -> None:
        check_model(model, self.embed_dim, self.name)
        self._set_model(model)

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of one image to one (3, H, W) tensor; any function of a PIL image can be assigned."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, preprocess: Preprocess) -> None:
        check_preprocess(preprocess)
        self._preprocess = preprocess
        self.inference.image_size = self.image_size

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.inference.device

    def to(self, device: str | torch.device) -> Encoder:
        """Move the model to a device, in the same precision; inference plans are built again.

        There is no plan for fp16 on a CPU: there the model's own weights become fp16, as in `oneclip.load`.

        Returns:
            The encoder itself.

        Raises:
            ConfigError: for an unknown device, or one that does not support the precision; nothing is moved then.
        """
        target = resolve_device(device)
        check_int8(self.precision, target)
        if self._precision is None or self._precision in PLAN_PRECISIONS.get(target.type, ()):
            self.model.to(target)
        else:
            self.model.to(target, torch_dtype(self._precision))
            self._precision = None
        self._set_model(self.model)
        return self

    @property
    def precision(self) -> str:
        """Precision of the arithmetic: "fp32", "bf16", "fp16" or "int8"."""
        return self.inference.precision

    @property
    def embed_dim(self) -> int:
        """D, the number of dimensions of an embedding."""
        return self.cfg.embed_dim

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of preprocessed images, in pixels."""
        return self._input_size(self.model)

    def _input_size(self, model: CLIP | CustomTextCLIP) -> tuple[int, int]:
        """Return the image size of `preprocess`, or of a model if `preprocess` has no configuration."""
        cfg = getattr(self._preprocess, "cfg", None)
        own = getattr(model.visual, "image_size", self.cfg.vision_cfg.image_size)
        return as_pair(cfg.size if isinstance(cfg, PreprocessCfg) else own)

    @property
    def context_length(self) -> int:
        """L, the greatest number of tokens of a text."""
        return self.inference.context_length

    @property
    def logit_scale(self) -> float:
        """Factor of similarities before they become probabilities: the exponential of the model's parameter."""
        return logit_scale_and_bias(self.model)[0]

    @property
    def logit_bias(self) -> float | None:
        """Number that is added to scaled similarities; None for a model trained with the softmax loss."""
        return logit_scale_and_bias(self.model)[1]

    def pipeline(self, decode: Decode = "exact") -> EncodePipeline:
        """Make the path of batches to the device and back; `decode` is that of `encode_images`."""
        exact = decode == "exact"
        preprocess: Any = self.preprocess if exact else FastPreprocess(self.preprocess_cfg)
        return EncodePipeline(self.inference, preprocess, self.embed_dim)

    def encode_pixels(self, batch: Array) -> Array:
        """Run the image tower only: (B, 3, H, W) floats, as `preprocess` makes them, on any device.

        Args:
            batch: a torch tensor or a NumPy array.

        Returns:
            (B, D), not normalized, without gradient: a tensor on the model's device and in its precision for a tensor,
            a float32 array for an array.

        Raises:
            ShapeError: if the batch has another shape, or holds integers.
            ConfigError: if `preprocess` makes images of another size than the model takes.
        """
        return match_type(batch, self.inference.encode_pixels(as_tensor(batch, "batch")))

    def encode_tokens(self, ids: Array) -> Array:
        """Run the text tower only: (B, L) ids, as `tokenizer` makes them, on any device.

        L can be shorter than the context, except for a tower that reads the padding, such as SigLIP's.

        Args:
            ids: a torch tensor or a NumPy array.

        Returns:
            (B, D), not normalized, without gradient, of the type of `ids`: see `encode_pixels`.

        Raises:
            ShapeError: if ids have another shape, are not integers, or are too short for the tower.
            TokenRangeError: if an id is outside of the vocabulary.
        """
        return match_type(ids, self.inference.encode_tokens(as_tensor(ids, "ids")))

    def explain(
        self,
        image: ImageSource,
        texts: Labels,
        *,
        method: Method = "auto",
        template: Templates | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> Maps:
        """Compute heat maps: where in an image is each text.

        Each map is contrasted with the other texts; one text is contrasted with generic texts.

        Args:
            image: one image, as in `encode_images`.
            texts: what to look for, all different; or one.
            method: "dense" compares the patches of one pass with the texts, "gradient" is LeGrad, "windows" encodes
                overlapping parts of the image and works with any tower; "auto" is "dense" where the tower has patches
                that can be compared, else "windows".
            template: as of `classify`.
            image_size: of the input, in pixels, for "dense" and "gradient": larger inputs give finer maps; None for
                that of the model, or the multiple of it that has 7 patches per side.

        Returns:
            Maps with `values` (T, H, W), in the order of `texts` and the coordinates of the image.

        Raises:
            ImageError: for an image that cannot be read.
            TextError: as of `classify`.
            ConfigError: if the tower does not support the method or the size, or `preprocess` has no configuration.
        """
        encoder: Encoder = self
        if any(
            module.training for module in self.model.modules()
        ):  # batch norms would change their statistics
            encoder = object.__new__(type(self))
            encoder.__setstate__({**self.__getstate__(), "model": shared_copy(self.model)})
        return explain(encoder, image, texts, method=method, template=template, image_size=image_size)

    @overload
    def caption(self, images: ImageSource, **options: Any) -> str: ...

    @overload
    def caption(self, images: Iterable[ImageSource], **options: Any) -> list[str]: ...

    def caption(
        self,
        images: Images,
        *,
        prompt: str = "",
        batch_size: int = 32,
        progress: Progress = False,
        **search: Any,
    ) -> str | list[str]:
        """Write captions of images, with a CoCa model.

        Args:
            images: one image, or several, as in `encode_images`.
            prompt: the beginning of every caption.
            batch_size: number of images that go through the model at once.
            progress: True for a bar on stderr, or a function that is called with the number of images just done.
            search: how tokens are chosen, and how many, see `oneclip.model.CoCa.generate`.

        Returns:
            The caption of one image, with the prompt; a list for several.

        Raises:
            ImageError: for an image that cannot be read.
            ConfigError: if the model has no decoder, or `search` contradicts itself.
        """
        captions: list[str] = []
        with report_progress(progress, count_images(images), "images") as advance:
            for part in self.stream_captions(images, prompt=prompt, batch_size=batch_size, **search):
                captions += part.captions
                advance(len(part.captions))
        return captions[0] if is_single_image(images) else captions

    def stream_captions(
        self,
        images: Images,
        *,
        prompt: str = "",
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        **search: Any,
    ) -> Generator[CaptionedImages, None, None]:
        """Write captions batch by batch; with `on_error="skip"` images that cannot be read are listed instead.

        Yields:
            A `CaptionedImages` for each batch; its indices count from the first of all images.
        """
        captioner = Captioner(self.model, self.tokenizer, prompt, self.name, search)
        with closing(self._read(images, self.preprocess, batch_size, on_error)) as batches:
            for (kept, skipped), pixels in batches:
                captions: list[str] = []
                if pixels:
                    captions = captioner.write(torch.stack(pixels).to(self.device, self.inference.dtype))
                yield CaptionedImages(captions, kept, skipped)

    def weights_digest(self) -> str:
        """Return the SHA-256 of the names, types, shapes and bytes of all tensors of the model, sorted by name."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy())  # raw bytes, also of bfloat16
        return digest.hexdigest()

    def token_ids(
        self,
        texts: Sequence[str],
        overflow: Literal["error", "truncate"] = "error",
        context_length: int | None = None,
    ) -> NDArray[np.int64]:
        """See `BaseEncoder.token_ids`."""
        return self.tokenizer(texts, context_length or self.context_length, overflow=overflow).numpy()

    def mean_of_prompts(self, features: Features, labels: int) -> Features:
        """See `BaseEncoder.mean_of_prompts`."""
        return mean_class_embeddings(torch.from_numpy(features), labels).numpy()

    @overload
    def similarity(self, images: Tensor, texts: str | Iterable[str] | Features | Tensor) -> Tensor: ...

    @overload
    def similarity(
        self, images: Images | Features, texts: str | Iterable[str] | Features | Tensor
    ) -> Features: ...

    def similarity(
        self, images: Images | Features | Tensor, texts: str | Iterable[str] | Features | Tensor
    ) -> Features | Tensor:
        """Compute the cosine similarity of images and texts.

        Args:
            images: N images as in `encode_images`, or their features: a tensor or an array (N, D) of floats. (Pass a
                gray image of floats that is exactly D wide in a list.)
            texts: M texts as in `encode_texts`, or their features.

        Returns:
            (N, M) float32, the cosine of each image with each text; a tensor if `images` is a tensor.

        Raises:
            ShapeError: for features of another shape.
            ImageError, TextError: for images and texts that cannot be encoded.
        """
        width = self.embed_dim
        image_features: Any = images if are_image_features(images, width) else self.encode_images(images)
        text_features: Any = texts if are_text_features(texts) else self.encode_texts(texts)
        result: Features | Tensor = match_type(
            image_features, cosine_similarity(image_features, text_features, width)
        )
        return result

    def probabilities(self, image_features: Array, text_features: Features | Tensor) -> Array:
        """Compute the probabilities (N, M) of labels from features of images (N, D) and labels (M, D).

        A model trained with the softmax loss, as nearly all are, answers which label it is: each row sums to 1, even if
        no label fits. A model with a `logit_bias` was trained with the sigmoid loss (Zhai et al. 2023): it answers for
        each label on its own whether it fits.

        Args:
            image_features: a torch tensor or a NumPy array.
            text_features: a torch tensor or a NumPy array.

        Returns:
            (N, M) float32 without gradient, of the type of `image_features` and on their device.

        Raises:
            ShapeError: for features of another shape.
        """
        cosines, bias = cosine_similarity(image_features, text_features, self.embed_dim), self.logit_bias
        logits = (self.logit_scale * cosines + (bias or 0.0)).cpu().numpy()
        result = torch.from_numpy(probabilities(logits, independent=bias is not None))
        return match_type(image_features, result.to(cosines.device))
