"""Run an evaluation: several models, data sets and tasks, with each image decoded and encoded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from oneclip.embed.items import Failure
from oneclip.errors import ConfigError, DataError, OneCLIPError, OutputError
from oneclip.evaluate.data import EvaluationDataset, Sample, open_dataset
from oneclip.evaluate.data.suites import SuiteEntry
from oneclip.evaluate.encoded import EncodedSplit
from oneclip.evaluate.encodings import EmbeddingCaches, Report, default_cache, encode_split, text_encoder
from oneclip.evaluate.evaluated_model import EvaluatedModel, file_stamp
from oneclip.evaluate.published import published_figures
from oneclip.evaluate.result import Result
from oneclip.evaluate.result_files import ResultFolder
from oneclip.evaluate.scoring import (
    TASKS,
    TaskOptions,
    check_task,
    describe_templates,
    relevant_options,
    resolve_task,
    score_task,
    splits_of_task,
    templates_of,
)

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

Model: TypeAlias = "str | os.PathLike[str] | Encoder | EvaluatedModel"
Data: TypeAlias = "str | os.PathLike[str] | EvaluationDataset | SuiteEntry"
Cache: TypeAlias = "str | os.PathLike[str] | Literal[False] | None"


@dataclass
class EvaluationEvents:
    """What a caller wants to hear of during a run; each is a function.

    Attributes:
        on_split: called before a split is encoded, with the name of the data set and of the split; returns what is
            called with the progress.
        on_result: called with each result, and whether it is from an earlier run.
        on_failure: called with a data set that cannot be evaluated; None raises the error.
    """

    on_split: Callable[[str, str], Report] = lambda dataset, split: lambda report: None
    on_result: Callable[[Result, bool], None] = lambda result, is_earlier: None
    on_failure: Callable[[Failure], None] | None = None


def evaluate(
    model: Model,
    data: Data,
    *,
    task: str = "auto",
    options: TaskOptions | None = None,
    cache: Cache = None,
    batch_size: int = 32,
    **opening: Any,
) -> Result:
    """Evaluate a model on a data set.

    Args:
        model: an encoder, or a name for `oneclip.load`.
        data: a path, an address or a name for `open_dataset`, or a data set.
        task: "auto", "zero-shot", "retrieval", "multilabel", "caption-selection", "linear-probe" or "few-shot".
        options: of the task.
        cache: folder of embeddings, so that images are encoded once; None for `default_cache()`, False for none.
        batch_size: images per forward pass.
        opening: options of `open_dataset`, such as `templates` and `classes`.

    Raises:
        ConfigError: for an unknown task.
        DataError: if the data set cannot be opened or has not what the task needs.
        UnknownModelError, CheckpointError, DownloadError: if the model cannot be loaded.
    """
    (result,) = evaluate_all(
        [model], [data], tasks=[task], options=options, cache=cache, batch_size=batch_size, **opening
    )
    return result


def evaluate_all(
    models: Sequence[Model],
    data: Sequence[Data],
    *,
    tasks: Sequence[str] = ("auto",),
    options: TaskOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: Cache = None,
    batch_size: int = 32,
    events: EvaluationEvents | None = None,
    **opening: Any,
) -> list[Result]:
    """Evaluate models on data sets. Each image is decoded once for all models and tasks.

    Args:
        models: see `evaluate`.
        data: see `evaluate`; also entries of a suite.
        tasks: see `evaluate`.
        options: of the tasks.
        out: folder of result files; results in it that were made by the same settings are read, not computed again.
        cache: see `evaluate`.
        batch_size: images per forward pass.
        events: what to call during the run.
        opening: options of `open_dataset` for every data set.

    Returns:
        A result for each data set, task and model, in this order.

    Raises:
        OutputError: if results or the cache cannot be written.
        OneCLIPError: as of `evaluate`.
    """
    for task in tasks:
        check_task(task)
    if not models or not data or not tasks:
        raise ConfigError("nothing to evaluate; expected at least one model, one data set and one task")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
    with ExitStack() as stack:
        run = _Run(
            [one if isinstance(one, EvaluatedModel) else EvaluatedModel(one) for one in models],
            tasks,
            options or TaskOptions(),
            stack.enter_context(_open_caches(cache)),
            batch_size,
            ResultFolder(out) if out is not None else None,
            events or EvaluationEvents(),
        )
        return [result for one in data for result in run.evaluate_data(one, opening)]


@dataclass
class _Run:
    """Settings of a run; see `evaluate_all`.

    Attributes:
        names: sources of the data sets so far, by name.
    """

    models: Sequence[EvaluatedModel]
    tasks: Sequence[str]
    options: TaskOptions
    caches: EmbeddingCaches
    batch_size: int
    folder: ResultFolder | None
    events: EvaluationEvents
    names: dict[str, str] = field(default_factory=dict)

    def evaluate_data(self, data: Data, opening: Mapping[str, Any]) -> list[Result]:
        """Return the results of a data set; none if it cannot be evaluated and the caller goes on."""
        try:
            dataset = self._open(data, opening)
            own, metric = (data.task, data.metric) if isinstance(data, SuiteEntry) else ("auto", "")
            tasks = self._fitting_tasks(dataset, [own if task == "auto" else task for task in self.tasks])
            return list(self._evaluate(dataset, tasks, metric, opening))
        except (OutputError, ConfigError):  # every data set would have it
            raise
        except (OneCLIPError, OSError) as error:
            if self.events.on_failure is None:
                raise
            self.events.on_failure(Failure(_name_of(data), str(error)))
            return []

    def _fitting_tasks(self, dataset: EvaluationDataset, names: Sequence[str]) -> list[str]:
        """Return the tasks that a data set has the data for; of several tasks, the others are reported."""
        tasks = []
        for name in names:
            try:
                task = resolve_task(name, dataset)
                splits_of_task(task, dataset)
            except DataError as error:
                if self.events.on_failure is None or len(names) == 1:
                    raise
                self.events.on_failure(Failure(f"{dataset.name}, {name}", str(error)))
            else:
                tasks.append(task)
        return list(dict.fromkeys(tasks))

    def _open(self, data: Data, opening: Mapping[str, Any]) -> EvaluationDataset:
        """Open a data set; one with the name of another is called by its source."""
        if isinstance(data, EvaluationDataset):
            return data
        if isinstance(data, SuiteEntry):
            dataset = open_dataset(data.source, **{"name": data.name, **data.options, **opening})
        else:
            dataset = open_dataset(data, **opening)
        source = str(dataset.source or data)
        if self.names.setdefault(dataset.name, source) != source:
            dataset = replace(dataset, name=source)
        return dataset

    def _evaluate(
        self, dataset: EvaluationDataset, tasks: Sequence[str], metric: str, opening: Mapping[str, Any]
    ) -> Iterator[Result]:
        """Yield a result for each task and model; `metric` is what the suite reports, "" for the main one."""
        earlier: dict[tuple[str, int], Result] = {}
        stamp = _data_stamp(dataset) if self.folder is not None else ""
        settings = {
            (task, i): self._settings(model, dataset, task, {**opening, "metric": metric, "files": stamp})
            for task in tasks
            for i, model in enumerate(self.models)
        }
        for (task, i), wanted in settings.items():
            name = TASKS[task].published_name
            found = self.folder.find(self.models[i], dataset, name, wanted) if self.folder else None
            if found is not None:
                earlier[task, i] = found
        encoded = self._encode(dataset, [key for key in settings if key not in earlier])
        for (task, i), wanted in settings.items():
            result = earlier.get((task, i))
            if result is None:
                result = self._score(dataset, task, self.models[i], encoded[i], metric)
                if self.folder is not None:
                    self.folder.write(self.models[i], result, wanted)
            self.events.on_result(result, (task, i) in earlier)
            yield result

    def _encode(
        self, dataset: EvaluationDataset, needed: Sequence[tuple[str, int]]
    ) -> dict[int, dict[str, EncodedSplit]]:
        """Encode the splits that unfinished tasks need, for all models that need them at once."""
        encoded: dict[int, dict[str, EncodedSplit]] = {i: {} for _, i in needed}
        splits = {split for task, _ in needed for split in splits_of_task(task, dataset)}
        for split in sorted(splits):
            users = sorted({i for task, i in needed if split in splits_of_task(task, dataset)})
            found = encode_split(
                [self.models[i] for i in users],
                dataset.split(split),
                self.caches,
                batch_size=self.batch_size,
                report=self.events.on_split(dataset.name, split),
            )
            if not len(found[0]):
                skipped = found[0].skipped
                why = f": {skipped[0]}" if skipped else ""
                raise DataError(f"the split {split} of {dataset.name} has no image that can be read{why}")
            for i, one in zip(users, found, strict=True):
                encoded[i][split] = one
        return encoded

    def _score(
        self,
        dataset: EvaluationDataset,
        task: str,
        model: EvaluatedModel,
        splits: Mapping[str, EncodedSplit],
        metric: str,
    ) -> Result:
        used = {split: splits[split] for split in splits_of_task(task, dataset)}
        score = score_task(task, dataset, used, text_encoder(model, self.caches), self.options)
        score.headline = metric if metric in score.metrics else score.headline
        made_by = {
            **model.describe(),
            "source": dataset.source,
            "images": len(used["test"]),
            "splits": {split: len(one) for split, one in used.items()},
            "templates": describe_templates(templates_of(dataset)) if dataset.classes else None,
            "options": relevant_options(task, self.options),
        }
        return Result(
            model.name,
            model.architecture,
            model.pretrained,
            dataset,
            TASKS[task].published_name,
            score,
            used["test"],
            [failure for one in used.values() for failure in one.skipped],
            made_by,
            _published(model, dataset, score.headline),
        )

    def _settings(
        self, model: EvaluatedModel, dataset: EvaluationDataset, task: str, opening: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what decides the figures of a result, as JSON values, without loading the model."""
        return {
            "model": model.identity,
            "loading": model.loading,
            "source": dataset.source,
            "opening": {key: str(value) for key, value in sorted(opening.items())},
            "classes": dataset.classes,
            "templates": describe_templates(templates_of(dataset)) if dataset.classes else None,
            "task": task,
            "options": relevant_options(task, self.options),
        }


def _data_stamp(dataset: EvaluationDataset) -> str:
    """Return a digest of the files of a data set on this machine; "" for others, whose names say what they are."""
    if os.path.isdir(dataset.source):
        return file_stamp(dataset.source)
    if not os.path.isfile(dataset.source):
        return ""
    samples = (sample for split in dataset.splits.values() for sample in split if isinstance(sample, Sample))
    return file_stamp(dataset.source, *(sample.item.file for sample in samples if sample.item.file))


def _open_caches(cache: Cache) -> EmbeddingCaches:
    """Open the caches; without a folder of the caller's, a temporary one if the default cannot be written."""
    if cache is False:
        return EmbeddingCaches(None)
    if cache is not None:
        return EmbeddingCaches(Path(cache))
    folder = default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return EmbeddingCaches(None)
    return EmbeddingCaches(folder if os.access(folder, os.W_OK) else None)


def _published(model: EvaluatedModel, dataset: EvaluationDataset, metric: str) -> float | None:
    """Return the published value of a metric, if there is one."""
    figures = published_figures(model.architecture, model.pretrained, dataset.name, len(dataset.classes))
    return figures[metric].value if metric in figures else None


def _name_of(data: Data) -> str:
    return data.name if isinstance(data, (EvaluationDataset, SuiteEntry)) else os.fspath(data)
