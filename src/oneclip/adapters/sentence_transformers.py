"""Interface of sentence-transformers: an object like its `SentenceTransformer`, and a module for one.

Shapes: N inputs, D joint embedding, H and W pixels, L tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oneclip.adapters.features import (
    as_encoder,
    as_rows,
    image_features,
    read_pixels,
    split_inputs,
    text_features,
)
from oneclip.checkpoint import ConvertibleModel, write_folder
from oneclip.encoder import Encoder
from oneclip.encoding.checks import check_positive
from oneclip.engine import normalized
from oneclip.errors import ConfigError
from oneclip.image.prefetch import is_single_image
from oneclip.progress import report_progress

Model = Encoder | str | os.PathLike[str]


class SentenceEncoder:
    """A model with the methods of sentence-transformers' `SentenceTransformer`; that package is not needed.

    As there, embeddings are the features of the towers, normalized only with `normalize_embeddings=True`, and a text
    that is too long is cut.

    Args:
        model: an encoder, or the name of a model for `oneclip.load`.
        device: where the model is moved to; None leaves it.
        prompts: texts that are put before texts, by the name that `encode` takes as `prompt_name`.
        truncate_dim: number of dimensions that are kept; None for all. CLIPs are not trained to be cut.

    Attributes:
        encoder: the model.
        modalities: what `encode` takes.
        similarity_fn_name: what `similarity` computes.
    """

    modalities = ("text", "image")
    similarity_fn_name = "cosine"

    def __init__(
        self,
        model: Model,
        device: str | torch.device | None = None,
        *,
        prompts: Mapping[str, str] | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        self.encoder = as_encoder(model, device)
        self.prompts, self.truncate_dim = dict(prompts or {}), truncate_dim

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.encoder!r})"

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        sentences: Any = None,
    ) -> Any:
        """Encode texts and images, also both in one list.

        Args:
            inputs: texts, paths and addresses of images, data URIs, PIL images, bytes and arrays; see `split_inputs`
                for how strings are understood. Several, or one.
            prompt_name: the name of one of `prompts`.
            prompt: a text that is put before each text, instead of `prompt_name`.
            batch_size: number of inputs that go through the model at once.
            show_progress_bar: True for a bar on stderr.
            output_value: only "sentence_embedding".
            precision: only "float32".
            convert_to_numpy: return an array; if False, a list of tensors.
            convert_to_tensor: return one tensor.
            device: where the model is moved to first.
            normalize_embeddings: divide each embedding by its length.
            truncate_dim: number of dimensions that are kept, before normalization.
            sentences: the older name of `inputs`.

        Returns:
            (N, D) float32, or (D,) for one input: an array, a tensor, or a list of tensors (D,).

        Raises:
            ImageError, TextTypeError: for an input that cannot be used; the message names it.
            ConfigError: for an unknown prompt, or an output that is not available.
        """
        _check_only("output_value", output_value, "sentence_embedding")
        _check_only("precision", precision, "float32")
        check_positive("batch_size", batch_size)
        inputs = sentences if inputs is None else inputs
        if device is not None:
            self.encoder.to(device)
        is_single = isinstance(inputs, (str, Mapping)) or is_single_image(inputs)
        prompt = self._prompt(prompt_name) if prompt is None else prompt
        split = split_inputs([inputs] if is_single else list(inputs), prompt)
        features = torch.empty(len(split.image_rows) + len(split.text_rows), self.encoder.embed_dim)
        with report_progress(bool(show_progress_bar), len(features), "inputs") as advance:
            features[split.image_rows] = image_features(self.encoder, split.images, batch_size)
            advance(len(split.images))
            features[split.text_rows] = text_features(self.encoder, split.texts, batch_size)
            advance(len(split.texts))
        features = features[:, : truncate_dim or self.truncate_dim]
        if normalize_embeddings:
            features = normalized(features)
        if convert_to_tensor:
            found: Any = features.to(self.encoder.device)
        else:
            found = features.numpy() if convert_to_numpy else list(features)
        return found[0] if is_single else found

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """Encode queries: with the prompt named "query", if there is one."""
        return self.encode(inputs, **{"prompt_name": self._if_known("query"), **options})

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """Encode documents: with the prompt named "document", if there is one."""
        return self.encode(inputs, **{"prompt_name": self._if_known("document"), **options})

    def _if_known(self, name: str) -> str | None:
        return name if name in self.prompts else None

    def _prompt(self, name: str | None) -> str | None:
        if name is not None and name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "there are none"
            raise ConfigError(f"{name!r} is not the name of a prompt; known: {known} (prompts=…)")
        return None if name is None else self.prompts[name]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosines (N, M) of embeddings (N, D) and (M, D): tensors, arrays or lists of tensors."""
        return (
            normalized(as_rows(embeddings1)) @ normalized(as_rows(embeddings2).to(_device_of(embeddings1))).T
        )

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosine (N,) of each embedding with the one in the same place, (N, D) both."""
        other = as_rows(embeddings2).to(_device_of(embeddings1))
        return (normalized(as_rows(embeddings1)) * normalized(other)).sum(dim=1)

    def get_embedding_dimension(self) -> int:
        """Return the number of dimensions that `encode` returns."""
        return min(self.encoder.embed_dim, self.truncate_dim or self.encoder.embed_dim)

    get_sentence_embedding_dimension = get_embedding_dimension  # the older name

    @property
    def max_seq_length(self) -> int:
        """Number of tokens after which a text is cut."""
        return self.encoder.context_length

    def get_max_seq_length(self) -> int:
        """Return the number of tokens after which a text is cut."""
        return self.max_seq_length

    def supports(self, modality: str) -> bool:
        """Return whether inputs can be of a kind: "text" and "image" can."""
        return modality in self.modalities

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of texts to (N, L) ids."""
        return self.encoder.tokenizer

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.encoder.device

    def to(self, device: str | torch.device) -> SentenceEncoder:
        """Move the model to a device; returns the object itself."""
        self.encoder.to(device)
        return self

    def eval(self) -> SentenceEncoder:
        """Return the object itself: the model is always in evaluation mode."""
        return self


class SentenceModule(nn.Module):
    """A model as the first module of a real `SentenceTransformer`.

        SentenceTransformer(modules=[SentenceModule("ViT-B-32:laion2b_s34b_b79k")])

    Without gradients, as in `encode`, the inference plans of the encoder compute; with gradients, as in a training of
    sentence-transformers, the plain module does.

    Args:
        model: an encoder, or the name of a model for `oneclip.load`.
    """

    save_in_root = False
    forward_kwargs: frozenset[str] = frozenset()

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = as_encoder(model)
        self.model = self.encoder.model

    @property
    def modalities(self) -> list[str]:
        """What `preprocess` takes."""
        return ["text", "image"]

    @property
    def max_seq_length(self) -> int:
        """Number of tokens after which a text is cut."""
        return self.encoder.context_length

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of texts to (N, L) ids."""
        return self.encoder.tokenizer

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return self.encoder.embed_dim

    def _apply(self, *args: Any, **options: Any) -> SentenceModule:
        """Move or convert the weights, as `nn.Module` does, and make inference plans of the new ones."""
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        self.encoder.model = self.model
        return self

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Read N images and texts.

        Returns:
            `pixel_values` (n, 3, H, W) and `input_ids` (m, L) for the n images and m texts, each if there are any; with
            both, `image_rows` (n,), the places of the images.
        """
        split = split_inputs(inputs, prompt)
        features: dict[str, Tensor] = {}
        if split.images:
            features["pixel_values"] = torch.cat(
                list(read_pixels(self.encoder, split.images, len(split.images)))
            )
        if split.texts:
            features["input_ids"] = self.encoder.tokenizer(split.texts, self.encoder.context_length)
        if split.images and split.texts:
            features["image_rows"] = torch.tensor(split.image_rows)
        return features

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Add the features (N, D), not normalized, as `sentence_embedding`."""
        towers: list[Any] = [self.encoder.encode_pixels, self.encoder.encode_tokens]
        if torch.is_grad_enabled():
            dtype = self.encoder.inference.dtype
            towers = [lambda pixels: self.model.encode_image(pixels.to(dtype)), self.model.encode_text]
        keys = ("pixel_values", "input_ids")
        parts = [tower(features[key]) for tower, key in zip(towers, keys, strict=True) if key in features]
        found = torch.cat(parts)
        if len(parts) == 2:  # the images stand first, and belong into their rows
            image_rows = features["image_rows"]
            is_text = torch.ones(len(found), dtype=torch.bool, device=found.device)
            is_text[image_rows] = False
            found = found[torch.cat([image_rows, is_text.nonzero()[:, 0]]).argsort()]
        return {**features, "sentence_embedding": found}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the model to a folder, in open_clip's format."""
        cfg, preprocess_cfg = self.encoder.cfg, self.encoder.preprocess_cfg
        write_folder(ConvertibleModel(self.model.state_dict(), cfg, preprocess_cfg), output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> SentenceModule:
        """Load what `save` wrote, from a folder on this machine."""
        return cls(os.path.join(model_name_or_path, subfolder))


def _check_only(name: str, value: object, only: Literal["sentence_embedding", "float32"]) -> None:
    if value != only:
        raise ConfigError(f"{name} is {value!r}; expected {only!r}, the only one here")


def _device_of(embeddings: Any) -> torch.device:
    return embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")
