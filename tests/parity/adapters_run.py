"""Run sentence-transformers and MTEB with a small model of ours, in a process with these packages on the path.

PYTHONPATH=.parity/adapted python tests/parity/adapters_run.py FOLDER

Everything that they return is written to FOLDER/found.pt.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from install import ADAPTED
from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
TEXTS = ["a cat", "a drawing of a dog in a park", "", "a very long text about cats " * 30]
LABELS = ["a red square", "a green square", "a blue square"]
NUMBER = 12  # images of the tasks


def images() -> list[Image.Image]:
    """Make images of different sizes and modes; both packages crop them at the same pixel, whatever they round."""
    from tiny import picture

    sizes, modes = [(64, 48), (70, 20), (48, 64), (32, 32)], ["RGB", "RGB", "L", "RGBA"]
    return [
        picture(seed, size).convert(mode) for seed, (size, mode) in enumerate(zip(sizes, modes, strict=True))
    ]


def write_model(folder: Path) -> Path:
    """Write a small CLIP with random weights as a folder that transformers and OneCLIP both load."""
    from tiny import PIXELS, tiny_cfg

    from oneclip import checkpoint
    from oneclip.config import PreprocessCfg
    from oneclip.model import build_model

    torch.manual_seed(0)
    cfg = tiny_cfg()
    state_dict = build_model(cfg).state_dict()
    model = checkpoint.ConvertibleModel(state_dict, cfg, PreprocessCfg(size=PIXELS))
    checkpoint.convert(model, folder, "transformers")
    return folder


def of_sentence_transformers(folder: Path) -> dict[str, Any]:
    """Encode with the package's own CLIP, and with ours inside of it."""
    from sentence_transformers import SentenceTransformer

    from oneclip.adapters import SentenceModule

    path = folder / "image.png"
    images()[0].save(path)
    options = {"backend": "pil"}  # as CLIP was published; that of torchvision resizes differently
    own = SentenceTransformer(str(folder / "model"), device="cpu", processor_kwargs=options)
    ours = SentenceTransformer(modules=[SentenceModule(folder / "model")], device="cpu")
    found: dict[str, Any] = {}
    for name, model in (("theirs", own), ("ours", ours)):
        found[name] = {
            "texts": model.encode(TEXTS, convert_to_tensor=True),
            "unit texts": model.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True),
            "prompted": model.encode(TEXTS[:2], convert_to_tensor=True, prompt="query: "),
            "images": model.encode(images(), convert_to_tensor=True),
            "path": model.encode(str(path), convert_to_tensor=True),
            "cut": model.encode(TEXTS[:2], convert_to_tensor=True, truncate_dim=5),
            "similarity": model.similarity(model.encode(images()), model.encode(TEXTS)),
            "pairwise": model.similarity_pairwise(model.encode(images()), model.encode(TEXTS)),
            "dimension": model.get_embedding_dimension(),
            "length": model.max_seq_length,
        }
    ours.save(str(folder / "saved"))
    again = SentenceTransformer(str(folder / "saved"), device="cpu", trust_remote_code=True)
    found["saved"] = again.encode(TEXTS, convert_to_tensor=True)
    return found | {"trained": trained(ours)}


def trained(model: Any) -> dict[str, bool]:
    """Compute a loss of the package with gradients; say which towers got any."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model.train()
    batches = [model.preprocess(images()), model.preprocess(TEXTS)]
    MultipleNegativesRankingLoss(model)(batches, None).backward()
    return {
        name: bool((parameter.grad.abs() > 0).any())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def of_mteb(folder: Path) -> dict[str, Any]:
    """Evaluate ours with the package, on generated tasks of three kinds."""
    from mteb.evaluate import evaluate
    from mteb.models import EncoderProtocol

    from oneclip.adapters import MTEBEncoder

    model = MTEBEncoder(folder / "model", name="us/tiny")
    done = evaluate(model, tasks(), cache=None, show_progress_bar=False)
    meta = model.mteb_model_meta
    return {
        "is encoder": isinstance(model, EncoderProtocol),
        "scores": {
            result.task_name: {
                name: float(value)
                for name, value in result.scores["test"][0].items()
                if isinstance(value, float)
            }
            for result in done.task_results
        },
        "meta": [meta.name, meta.revision, meta.embed_dim, meta.max_tokens],
    }


def squares() -> list[Image.Image]:
    """Make the images of the tasks."""
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8)) for _ in range(NUMBER)]


def captions() -> list[str]:
    return [f"{LABELS[i % 3]}, number {i}" for i in range(NUMBER)]


def tasks() -> list[Any]:
    """Make tasks of MTEB: zero-shot classification, and retrieval of images by words and by images with words."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    def described(name: str, kind: str, score: str, category: str) -> TaskMetadata:
        return TaskMetadata(
            name=name,
            type=kind,
            main_score=score,
            category=category,
            modalities=["image", "text"],
            description=name,
            reference=None,
            dataset={"path": "none", "revision": "none"},
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
        )

    class ZeroShot(AbsTaskZeroShotClassification):
        metadata = described("Squares", "ZeroShotClassification", "accuracy", "i2t")

        def load_data(self, **_: Any) -> None:
            rows = {"image": squares(), "label": [i % 3 for i in range(NUMBER)]}
            self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_dict(rows)}), True

        def get_candidate_labels(self) -> list[str]:
            return LABELS

    def retrieval(name: str, category: str, queries: dict[str, Any]) -> Any:
        class Retrieval(AbsTaskRetrieval):
            metadata = described(name, "Any2AnyRetrieval", "hit_rate_at_1", category)

            def load_data(self, **_: Any) -> None:
                ids = [str(i) for i in range(NUMBER)]
                data = {
                    "corpus": Dataset.from_dict({"id": [f"d{i}" for i in ids], "image": squares()}),
                    "queries": Dataset.from_dict({"id": [f"q{i}" for i in ids], **queries}),
                    "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in ids},
                    "top_ranked": None,
                }
                self.dataset, self.data_loaded = {"default": {"test": data}}, True

        return Retrieval()

    words = {"text": captions(), "image": squares()[::-1]}
    return [
        ZeroShot(),
        retrieval("ByWords", "t2i", {"text": captions()}),
        retrieval("ByBoth", "it2i", words),
    ]


def leave_out() -> None:
    """Stand in for what these packages import and do not use here."""
    from torchvision_stub import declare_operators

    declare_operators()
    import datasets  # noqa: F401  # it must not find polars

    polars = types.ModuleType("polars")
    polars.__getattr__ = type_named  # type: ignore[method-assign]
    sys.modules["polars"] = polars
    # of MTEB only what evaluates: its 1,500 files of published models and tasks take ten seconds to import
    mteb = types.ModuleType("mteb")
    mteb.__path__ = [str(ADAPTED / "mteb")]
    known = types.ModuleType("mteb.models.model_implementations")
    known.MODEL_REGISTRY = {}  # type: ignore[attr-defined]
    sys.modules |= {"mteb": mteb, known.__name__: known}


def type_named(name: str) -> type:
    """Make an empty type, for annotations."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


if __name__ == "__main__":
    sys.path.append(str(TESTS))
    torch.set_num_threads(1)
    leave_out()
    here = Path(sys.argv[1])
    write_model(here / "model")
    torch.save({"sentences": of_sentence_transformers(here), "mteb": of_mteb(here)}, here / "found.pt")
