"""Interface that heat maps need of an `oneclip.Encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from oneclip.config import PreprocessCfg
from oneclip.engine import InferenceModel
from oneclip.image.decode import Truncated
from oneclip.text import Tokenizer
from oneclip.text.labels import Templates

Features = NDArray[np.float32]


class ExplainedEncoder(Protocol):
    """The members of an encoder that are used; see `oneclip.Encoder`."""

    name: str
    inference: InferenceModel
    max_pixels: int | None
    truncated: Truncated

    @property
    def model(self) -> Any: ...

    @property
    def preprocess_cfg(self) -> PreprocessCfg: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def logit_scale(self) -> float: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    def encode_images(self, images: list[Image.Image], /) -> Features: ...

    def encode_texts(self, texts: Sequence[str], /) -> Features: ...

    def encode_labels(self, labels: Sequence[str], template: Templates | None, /) -> Features: ...
