"""Result of one model on one data set and task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oneclip.embed.items import Failure
from oneclip.evaluate.data.dataset import EvaluationDataset
from oneclip.evaluate.encoded import EncodedSplit, Score


@dataclass
class Result:
    """Result of one model on one data set and task.

    Attributes:
        model: name of the model, for people.
        architecture, pretrained: its two parts as CLIP_benchmark writes them; `pretrained` is "" for a model without.
        dataset: the data set.
        task: "zeroshot_classification", "zeroshot_retrieval", "linear_probe", "few_shot", "image_caption_selection".
        score: metrics, intervals, and what reports draw.
        encoded: embeddings of the test split; None for a result that was read from a file.
        skipped: images that could not be used, with the reason.
        made_by: versions, weights, precision, preprocessing, templates and seeds that made it; JSON values.
        published: what was published for this model and data set, see `oneclip.evaluate.published`; None if unknown.
    """

    model: str
    architecture: str
    pretrained: str
    dataset: EvaluationDataset
    task: str
    score: Score
    encoded: EncodedSplit | None = None
    skipped: Sequence[Failure] = ()
    made_by: dict[str, Any] = field(default_factory=dict)
    published: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by their names."""
        return self.score.metrics
