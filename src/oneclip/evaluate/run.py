"""Run an evaluation: several models, data sets and tasks, with each image decoded and encoded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from oneclip.embed.items import Failure
from oneclip.errors import ConfigError, DataError, OneCLIPError, OutputError
from oneclip.evaluate.data import EvaluationDataset, Sample, open_dataset
from oneclip.evaluate.data.suites import SuiteEntry
from oneclip.evaluate.encoded import EncodedSplit
from oneclip.evaluate.encodings import Cache, EmbeddingCaches, Report, encode_split, open_caches, text_encoder
from oneclip.evaluate.evaluated_model import EvaluatedModel, file_stamp
from oneclip.evaluate.published import published_figures
from oneclip.evaluate.result import Result
from oneclip.evaluate.result_files import ResultFolder
from oneclip.evaluate.scoring import (
    TASKS,
    TaskOptions,
    check_metric,
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

T = TypeVar("T")
Model: TypeAlias = "str | os.PathLike[str] | Encoder | EvaluatedModel"
Data: TypeAlias = "str | os.PathLike[str] | EvaluationDataset | SuiteEntry"


@dataclass
class EvaluationEvents:
    """What a caller wants to hear of during a run; each is a function.

    Attributes:
        on_split: called before a split is encoded, with the name of the data set and of the split; returns what is
            called with the progress.
        on_result: called with each result, and whether it is from an earlier run.
        on_failure: called with a data set that cannot be evaluated; None raises the error.
        on_note: called with a sentence about a result that is not quite what was asked for.
    """

    on_split: Callable[[str, str], Report] = lambda dataset, split: lambda report: None
    on_result: Callable[[Result, bool], None] = lambda result, is_earlier: None
    on_failure: Callable[[Failure], None] | None = None
    on_note: Callable[[str], None] = lambda note: None


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
    if "few-shot" in tasks and options is not None and options.compat:
        raise ConfigError(
            "few-shot learning has no counterpart in CLIP_benchmark, whose figures compat requests; leave out one of "
            "them, or use the task linear-probe"
        )
    for one in data:
        if isinstance(one, SuiteEntry):
            check_task(one.task)
            check_metric(one.metric, one.task, options or TaskOptions(), one.name)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
    with ExitStack() as stack:
        run = _Run(
            [one if isinstance(one, EvaluatedModel) else EvaluatedModel(one) for one in models],
            tasks,
            options or TaskOptions(),
            stack.enter_context(open_caches(cache)),
            batch_size,
            ResultFolder(out) if out is not None else None,
            events or EvaluationEvents(),
        )
        return [result for one in data for result in run.evaluate_data(one, opening)]


@dataclass
class _Plan:
    """What is to be done for a data set.

    Attributes:
        dataset: the data set.
        metric: that its suite reports; "" for the main one of the task.
        metric_task: the task that must have the metric; "" if the caller chose other tasks than the suite.
        settings: that decide a figure, by task and number of the model.
        earlier: results of an earlier run.
    """

    dataset: EvaluationDataset
    metric: str
    metric_task: str
    settings: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    earlier: dict[tuple[str, int], Result] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[tuple[str, int]]:
        """Tasks and models without a result."""
        return [key for key in self.settings if key not in self.earlier]


@dataclass
class _Run:
    """Settings of a run; see `evaluate_all`.

    Attributes:
        names: sources of the data sets so far, by name.
        notes: that the caller was told.
    """

    models: Sequence[EvaluatedModel]
    tasks: Sequence[str]
    options: TaskOptions
    caches: EmbeddingCaches
    batch_size: int
    folder: ResultFolder | None
    events: EvaluationEvents
    names: dict[str, str] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def evaluate_data(self, data: Data, opening: Mapping[str, Any]) -> list[Result]:
        """Return the results of a data set; without what cannot be evaluated, if the caller goes on."""
        name = data.name if isinstance(data, (EvaluationDataset, SuiteEntry)) else os.fspath(data)
        plan = self._attempt(name, lambda: self._plan(data, opening))
        if plan is None:
            return []
        for i in {i for _, i in plan.unfinished}:
            _ = self.models[i].encoder  # an error of a model ends the run, unlike one of a data set
        encoded = self._attempt(name, lambda: self._encode(plan.dataset, plan.unfinished))
        if encoded is None:
            return []
        results = [self._finish(plan, task, i, encoded) for task, i in plan.settings]
        return [result for result in results if result is not None]

    def _attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """Return the result of some work; None if the data does not allow it and the caller goes on."""
        try:
            return work()
        except (OutputError, ConfigError):  # every data set would have it
            raise
        except (OneCLIPError, OSError) as error:
            if self.events.on_failure is None:
                raise
            self.events.on_failure(Failure(name, str(error)))
            return None

    def _plan(self, data: Data, opening: Mapping[str, Any]) -> _Plan:
        """Open a data set, and read the results that are finished."""
        dataset = self._open(data, opening)
        own, metric = (data.task, data.metric) if isinstance(data, SuiteEntry) else ("auto", "")
        tasks = self._fitting_tasks(dataset, [own if task == "auto" else task for task in self.tasks])
        more = {"metric": metric, "files": _data_stamp(dataset) if self.folder is not None else ""}
        metric_task = resolve_task(own, dataset) if metric and "auto" in self.tasks else ""
        if metric_task:
            check_metric(metric, metric_task, self.options, dataset.name)
        plan = _Plan(dataset, metric, metric_task)
        for task in tasks:
            for i, model in enumerate(self.models):
                wanted = self._settings(model, dataset, task, {**opening, **more})
                plan.settings[task, i] = wanted
                name = TASKS[task].published_name
                found = self.folder.find(model, dataset, name, wanted) if self.folder else None
                if found is not None:
                    plan.earlier[task, i] = found
        return plan

    def _fitting_tasks(self, dataset: EvaluationDataset, names: Sequence[str]) -> list[str]:
        """Return the tasks that a data set has the data for; of several tasks, the others are reported."""
        if len(names) == 1:
            return _fitting_task(names[0], dataset)
        tasks: list[str] = []
        for name in names:
            tasks += self._attempt(f"{dataset.name}, {name}", partial(_fitting_task, name, dataset)) or []
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

    def _finish(
        self, plan: _Plan, task: str, i: int, encoded: Mapping[int, Mapping[str, EncodedSplit]]
    ) -> Result | None:
        """Return a result, read or computed now; None if the data does not allow it and the caller goes on."""
        model, result = self.models[i], plan.earlier.get((task, i))
        if result is None:
            name = f"{plan.dataset.name}, {task}, {model.name}"
            result = self._attempt(name, lambda: self._score(plan, task, model, encoded[i]))
            if result is None:
                return None
            if self.folder is not None:
                self.folder.write(model, result, plan.settings[task, i])
        self.events.on_result(result, (task, i) in plan.earlier)
        return result

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
        self, plan: _Plan, task: str, model: EvaluatedModel, splits: Mapping[str, EncodedSplit]
    ) -> Result:
        dataset = plan.dataset
        used = {split: splits[split] for split in splits_of_task(task, dataset)}
        score = score_task(task, dataset, used, text_encoder(model, self.caches), self.options)
        if plan.metric in score.metrics:
            score.headline = plan.metric
        elif task == plan.metric_task and not self.options.compat:  # CLIP_benchmark has fewer metrics
            raise DataError(
                f"{dataset.name} has not what its metric {plan.metric} needs; computed were {', '.join(score.metrics)}"
            )
        for shots in score.details.get("left_out", ()):
            self._note(
                f"{dataset.name}: {shots} shots are left out, because a class has fewer training images"
            )
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

    def _note(self, note: str) -> None:
        """Tell the caller once, not for every model."""
        if note not in self.notes:
            self.notes.add(note)
            self.events.on_note(note)

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


def _fitting_task(name: str, dataset: EvaluationDataset) -> list[str]:
    """Return the task in a list; raises DataError if the data set has not what it needs."""
    task = resolve_task(name, dataset)
    splits_of_task(task, dataset)
    return [task]


def _data_stamp(dataset: EvaluationDataset) -> str:
    """Return a digest of the files of a data set on this machine; "" for others, whose names say what they are."""
    if os.path.isdir(dataset.source):
        return file_stamp(dataset.source)
    if not os.path.isfile(dataset.source):
        return ""
    samples = (sample for split in dataset.splits.values() for sample in split if isinstance(sample, Sample))
    return file_stamp(dataset.source, *(sample.item.file for sample in samples if sample.item.file))


def _published(model: EvaluatedModel, dataset: EvaluationDataset, metric: str) -> float | None:
    """Return the published value of a metric, if there is one."""
    figures = published_figures(model.architecture, model.pretrained, dataset.name, len(dataset.classes))
    return figures[metric].value if metric in figures else None
