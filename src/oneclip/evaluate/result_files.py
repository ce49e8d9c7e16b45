"""Result files: CLIP_benchmark's JSON, ours with more beside it, and one CSV of many.

    OUT/{dataset}_{pretrained}_{model}_{language}_{task}.json           as CLIP_benchmark writes it
    OUT/details/{dataset}_{pretrained}_{model}_{language}_{task}.json   settings, intervals, classes, what was skipped
    OUT/details/{dataset}_{pretrained}_{model}_{language}_{task}.npz    values and predictions of each image

CLIP_benchmark reads every JSON file of a folder, but not of folders inside it, so its own tools read OUT as well.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oneclip.embed.items import Failure
from oneclip.errors import DataError, OutputError
from oneclip.evaluate.data.dataset import EvaluationDataset
from oneclip.evaluate.encoded import Predictions, Score
from oneclip.evaluate.evaluated_model import EvaluatedModel
from oneclip.evaluate.result import Result
from oneclip.hub.atomic import replace_file, write_errors

DETAILS = "details"
FIRST_COLUMNS = ("dataset", "model", "pretrained", "task", "language")
_PREDICTION_FIELDS = ("labels", "predicted", "confidence", "top")


class ResultFolder:
    """Folder of result files.

    Args:
        folder: created if necessary.

    Raises:
        OutputError: if it cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the folder {folder} cannot be created: {error.strerror}") from error

    def path(self, model: EvaluatedModel, dataset: EvaluationDataset, task: str) -> Path:
        """Return the path of a result in CLIP_benchmark's format; `task` is CLIP_benchmark's name."""
        parts = (
            dataset.name.removeprefix("wds/"),
            model.pretrained,
            model.architecture,
            dataset.language,
            task,
        )
        return self.folder / ("_".join(_file_name(part) for part in parts) + ".json")

    def find(
        self, model: EvaluatedModel, dataset: EvaluationDataset, task: str, settings: Mapping[str, Any]
    ) -> Result | None:
        """Read a finished result that was made by the same settings; None if there is none."""
        path = self.path(model, dataset, task)
        details, arrays = _beside(path, ".json"), _beside(path, ".npz")
        try:
            stored = json.loads(details.read_text(encoding="utf-8"))
            if not path.exists() or stored["settings"] != settings:
                return None
            with np.load(arrays, allow_pickle=False) as values:
                return _read_result(model, dataset, task, stored, dict(values))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # missing, or damaged: it is written again

    def write(self, model: EvaluatedModel, result: Result, settings: Mapping[str, Any]) -> Path:
        """Write a result; the file of CLIP_benchmark's format is written last, when the others are complete.

        Raises:
            OutputError: if a file cannot be written.
        """
        path = self.path(model, result.dataset, result.task)
        score = result.score
        arrays = {f"item {name}": values for name, values in score.items.items()}
        if score.predictions is not None:
            arrays |= {name: getattr(score.predictions, name) for name in _PREDICTION_FIELDS}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        details = to_json(result) | {"settings": dict(settings)}
        theirs = {
            "dataset": result.dataset.name,
            "model": result.architecture,
            "pretrained": result.pretrained,
            "task": result.task,
            "metrics": score.metrics,
            "language": result.dataset.language,
        }
        with write_errors(self.folder):
            (self.folder / DETAILS).mkdir(exist_ok=True)
        for target, data in (
            (_beside(path, ".npz"), content.getvalue()),
            (_beside(path, ".json"), json.dumps(details, indent=1, ensure_ascii=False).encode()),
            (path, json.dumps(theirs).encode()),  # with NaN, as theirs
        ):
            with replace_file(target, durable=False) as temporary:
                temporary.write_bytes(data)
        return path


def to_json(result: Result) -> dict[str, Any]:
    """Convert a result to JSON values; a metric that is not defined becomes null."""
    score = result.score
    return {
        "model": result.model,
        "architecture": result.architecture,
        "pretrained": result.pretrained,
        "dataset": result.dataset.name,
        "task": result.task,
        "language": result.dataset.language,
        "images": result.made_by.get("images", 0),
        "headline": score.headline,
        "metrics": _without_nan(score.metrics),
        "intervals": _without_nan(score.intervals),
        "per_class": _without_nan(score.per_class),
        "published": result.published,
        "details": _without_nan(score.details),
        "skipped": [{"path": one.name, "reason": one.reason} for one in result.skipped],
        "made_by": result.made_by,
    }


def build_table(
    paths: Sequence[str | os.PathLike[str]], target: str | os.PathLike[str]
) -> tuple[int, list[Failure]]:
    """Write one CSV file of results in CLIP_benchmark's format, with the columns of `clip_benchmark build`.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        paths: JSON files, and folders of them.
        target: path of the CSV file.

    Returns:
        The number of rows, and the files that are not results.

    Raises:
        DataError: if a path does not exist, or there are no results.
        OutputError: if the file cannot be written.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Failure] = []
    for found in [found for path in paths for found in _result_files(Path(path))]:
        try:
            rows.append(_read_row(found))
        except DataError as error:
            bad.append(Failure(str(found), str(error)))
    if not rows:
        why = f" ({'; '.join(one.reason for one in bad[:5])})" if bad else ""
        raise DataError(
            f"no results in {', '.join(map(str, paths))}{why}; expected JSON files of `oneclip evaluate --out`"
        )
    others = {name for row in rows for name in row} - {*FIRST_COLUMNS, "model_fullname"}
    columns = [*FIRST_COLUMNS, *sorted(others, key=_natural), "model_fullname"]
    with replace_file(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows), bad


def _result_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.json"))
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a folder of results, or a JSON file")
    return [path]


def _read_row(file: Path) -> dict[str, Any]:
    """Read a result as a row; raises DataError if the file is not one."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not a result: it is not JSON") from error
    if not isinstance(data, dict):
        raise DataError(f"{file} is not a result: it is not a JSON object")
    for name in ("metrics", *FIRST_COLUMNS):
        if name not in data:
            raise DataError(f"{file} is not a result: it has no {name!r}")
        if name != "metrics" and not isinstance(data[name], str):
            raise DataError(f"{file} is not a result: its {name!r} is {data[name]!r:.40}; expected text")
    metrics = data["metrics"]
    if not isinstance(metrics, dict):
        raise DataError(f"{file} is not a result: its 'metrics' is {metrics!r:.40}; expected numbers by name")
    for name, value in metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise DataError(
                f"{file} is not a result: its metric {name!r} is {value!r:.40}; expected a number"
            )
    text = {name: _plain_text(data[name]) for name in FIRST_COLUMNS}
    full_name = _plain_text(f"{data['model']} {data['pretrained']}")
    return (
        {_plain_text(name): value for name, value in metrics.items()} | text | {"model_fullname": full_name}
    )


def _plain_text(text: str) -> str:
    """Return a text with an apostrophe before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts recall@5 before recall@10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_result(
    model: EvaluatedModel,
    dataset: EvaluationDataset,
    task: str,
    stored: dict[str, Any],
    arrays: dict[str, np.ndarray[Any, Any]],
) -> Result:
    predictions = Predictions(*(arrays[name] for name in _PREDICTION_FIELDS)) if "labels" in arrays else None
    score = Score(
        {name: math.nan if value is None else value for name, value in stored["metrics"].items()},
        stored["headline"],
        {name.removeprefix("item "): values for name, values in arrays.items() if name.startswith("item ")},
        {name: (low, high) for name, (low, high) in stored["intervals"].items()},
        stored["per_class"],
        predictions,
        stored["details"],
    )
    return Result(
        model.name,
        model.architecture,
        model.pretrained,
        dataset,
        task,
        score,
        skipped=[Failure(one["path"], one["reason"]) for one in stored["skipped"]],
        made_by=stored["made_by"],
        published=stored["published"],
    )


def _file_name(part: str) -> str:
    """Return a part of a file name: without folders, and without characters that some systems do not allow."""
    return re.sub(r'[/\\:*?"<>|\0]', "_", part).strip(".") or ""


def _beside(path: Path, suffix: str) -> Path:
    return path.parent / DETAILS / (path.name.removesuffix(".json") + suffix)


def _without_nan(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
