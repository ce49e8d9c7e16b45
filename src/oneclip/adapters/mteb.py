"""Interface of MTEB, the benchmark of embeddings, from its version 2 on.

    mteb.evaluate(MTEBEncoder("ViT-B-32:laion2b_s34b_b79k"), mteb.get_tasks(["CIFAR10ZeroShot"]))

Shapes: N inputs, M others, D joint embedding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from oneclip.adapters.features import as_encoder, image_features, text_features
from oneclip.adapters.sentence_transformers import SentenceEncoder
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError


class MTEBEncoder:
    """A model as MTEB's `EncoderProtocol`, for its tasks with images, texts, and both.

    An input with an image and a text has the sum of their features, as in MTEB's own models; cosines compare.

    Args:
        model: an encoder, or the name of a model for `oneclip.load`.
        revision: written beside results; None for a hash of the weights, precision and preprocessing, so that MTEB,
            which keeps results by name and revision, never takes those of other weights for these.
        device: where the model is moved to; None leaves it.
        name: written beside results, `ORGANIZATION/MODEL`; None for that of the model.
        languages: of the texts that the model was trained with, as `eng-Latn`.

    Attributes:
        encoder: the model.
    """

    def __init__(
        self,
        model: Encoder | str | os.PathLike[str],
        revision: str | None = None,
        *,
        device: str | torch.device | None = None,
        name: str | None = None,
        languages: Sequence[str] = ("eng-Latn",),
        **_: Any,
    ) -> None:
        self.encoder = as_encoder(model, device)
        self._revision, self._languages = revision, list(languages)
        self._name = name or "oneclip/" + re.sub(r"[^\w.+-]+", "-", self.encoder.name).strip("-")
        self._sentences = SentenceEncoder(self.encoder)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Description of the model, MTEB's `ModelMeta`. Hashes all weights, which takes a moment."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        parameters = list(self.encoder.model.parameters())
        return ModelMeta(
            loader=None,
            name=self._name,
            revision=self._revision or EmbeddingMetadata.for_encoder(self.encoder, "exact").identity,
            release_date=None,
            languages=self._languages,
            n_parameters=sum(parameter.numel() for parameter in parameters),
            memory_usage_mb=sum(p.numel() * p.element_size() for p in parameters) / 2**20,
            max_tokens=self.encoder.context_length,
            embed_dim=self.encoder.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=["image", "text"],
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        batch_size: int = 32,
        **_: Any,
    ) -> Tensor:
        """Encode the inputs of a task.

        Args:
            inputs: batches, each with the list `text`, `image` or both.
            task_metadata: of the task, for the error.
            hf_split: not used; CLIPs encode the same text and image alike wherever it stands.
            hf_subset: not used.
            prompt_type: not used.
            batch_size: number of inputs that go through the model at once.

        Returns:
            (N, D) float32 on the CPU, not normalized.

        Raises:
            ConfigError: for inputs without texts and images.
            ImageError: for an image that cannot be read.
        """
        texts: list[str] = []

        def images() -> Iterator[Any]:
            for batch in inputs:
                if "text" not in batch and "image" not in batch:
                    task = getattr(task_metadata, "name", "this task")
                    raise ConfigError(f"the inputs of {task} are {', '.join(batch)}; expected text or image")
                texts.extend(batch.get("text", ()))
                yield from batch.get("image", ())

        of_images = image_features(self.encoder, images(), batch_size)
        of_texts = text_features(self.encoder, texts, batch_size)
        return of_images + of_texts if len(of_images) and len(of_texts) else torch.cat([of_images, of_texts])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosines (N, M) of embeddings (N, D) and (M, D)."""
        return self._sentences.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosine (N,) of each embedding with the one in the same place, (N, D) both."""
        return self._sentences.similarity_pairwise(embeddings1, embeddings2)
