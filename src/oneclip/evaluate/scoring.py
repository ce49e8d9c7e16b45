"""The tasks of an evaluation by name: what each needs, and how it is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from oneclip.errors import ConfigError, DataError, nearest_names
from oneclip.evaluate.data.dataset import EvaluationDataset, Kind, Templates
from oneclip.evaluate.encoded import EncodedSplit, Score, TextEncoder
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES

Method = Literal["linear", "tip-adapter"]


@dataclass(frozen=True)
class TaskOptions:
    """Options of all tasks.

    Attributes:
        recall_at: the values of k for recall at k.
        shots: images per class, of few-shot learning.
        seeds: how often images are drawn for each number of shots.
        method: of few-shot learning, "linear" or "tip-adapter".
        seed: of a linear probe.
        compat: compute every figure exactly as CLIP_benchmark does.
    """

    recall_at: tuple[int, ...] = (1, 5, 10)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: int = 3
    method: Method = "linear"
    seed: int = 0
    compat: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True)
class TaskFacts:
    """What is known about a task.

    Attributes:
        published_name: of the task in result files, as CLIP_benchmark writes it.
        kind: of the data sets that it is for.
        learns: whether it needs images to learn from, besides those that it is measured on.
        options: fields of `TaskOptions` that it depends on.
        metrics: that it may compute; of those that end in "@", one for each number of images or shots.
    """

    published_name: str
    kind: Kind
    learns: bool = False
    options: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


_CLASSIFIED = ("acc1", "acc5", "mean_per_class_recall", "ece", "worst_group_acc1")
_RECALLS = ("image_retrieval_recall@", "text_retrieval_recall@")
TASKS: Mapping[str, TaskFacts] = {
    "zero-shot": TaskFacts("zeroshot_classification", "classes", metrics=_CLASSIFIED),
    "multilabel": TaskFacts("zeroshot_classification", "multilabel", metrics=("mean_average_precision",)),
    "retrieval": TaskFacts("zeroshot_retrieval", "captions", options=("recall_at",), metrics=_RECALLS),
    "caption-selection": TaskFacts(
        "image_caption_selection", "caption_selection", metrics=("image_acc", "text_acc", "acc")
    ),
    "linear-probe": TaskFacts(
        "linear_probe",
        "classes",
        learns=True,
        options=("seed",),
        metrics=tuple(f"lp_{name}" for name in _CLASSIFIED),
    ),
    "few-shot": TaskFacts(
        "few_shot", "classes", learns=True, options=("shots", "seeds", "method"), metrics=("acc1@",)
    ),
}
KIND_NAMES: Mapping[Kind, str] = {
    "classes": "one class per image",
    "multilabel": "several classes per image",
    "captions": "captions",
    "caption_selection": "captions of which one is right",
}


def resolve_task(name: str, dataset: EvaluationDataset) -> str:
    """Return the name of a task; for "auto", of the one without learning that fits a data set.

    Raises:
        ConfigError: for an unknown name.
        DataError: if the data set has not what the task needs.
    """
    if name == "auto":
        return next(each for each, facts in TASKS.items() if facts.kind == dataset.kind)
    check_task(name)
    if dataset.kind == "multilabel" and name == "zero-shot":
        return "multilabel"
    if TASKS[name].kind != dataset.kind:
        fitting = [each for each, facts in TASKS.items() if facts.kind == dataset.kind]
        raise DataError(
            f"{dataset.name} has {KIND_NAMES[dataset.kind]}, and the task {name} needs "
            f"{KIND_NAMES[TASKS[name].kind]}; use --task {' or '.join(fitting)}"
        )
    return name


def check_task(name: str) -> None:
    """Raise ConfigError unless a task has this name."""
    if name not in TASKS and name != "auto":
        near = nearest_names(name, list(TASKS))
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown task {name!r}; expected auto, {', '.join(TASKS)}{hint}")


def check_metric(metric: str, task: str, options: TaskOptions, of: str) -> None:
    """Raise ConfigError if a task never computes a metric; "" is the main one.

    Args:
        metric: its name.
        task: a key of `TASKS`, or "auto" for any of them.
        options: of the tasks.
        of: what the metric is for, in the message.
    """
    tasks = list(TASKS) if task == "auto" else [task]
    numbers = {"image_retrieval_recall@": options.recall_at, "text_retrieval_recall@": options.recall_at}
    numbers["acc1@"] = options.shots
    names = [name for each in tasks for name in TASKS[each].metrics]
    known = [f"{name}{number}" for name in names for number in numbers.get(name, ("",))]
    if metric and metric not in known:
        which = "any task" if task == "auto" else f"the task {task}"
        raise ConfigError(
            f"the metric {metric!r} of {of} is not one of {which}; expected {', '.join(known)}, or none for the main "
            "one"
        )


def splits_of_task(task: str, dataset: EvaluationDataset) -> list[str]:
    """Return the names of the splits that a task needs.

    Raises:
        DataError: if the data set has no images to learn from.
    """
    if not TASKS[task].learns:
        return ["test"]
    if "train" not in dataset.splits:
        raise DataError(
            f"{dataset.name} has only the split {', '.join(dataset.splits)}; the task {task} also needs images to "
            "learn from: a folder with train/CLASS/ and test/CLASS/, or a data set with the splits train and test"
        )
    return [name for name in ("train", "val", "test") if name in dataset.splits]


def templates_of(dataset: EvaluationDataset) -> Templates:
    """Return the prompt templates of a data set: its own, or the seven of ImageNet."""
    return dataset.templates if dataset.templates is not None else SIMPLE_TEMPLATES


def score_task(
    task: str,
    dataset: EvaluationDataset,
    splits: Mapping[str, EncodedSplit],
    text: TextEncoder,
    options: TaskOptions,
) -> Score:
    """Compute the score of a task.

    Args:
        task: a key of `TASKS`.
        dataset: with class names and templates.
        splits: "test", and what `splits_of_task` returns.
        text: text side of the model.
        options: of all tasks.
    """
    test, compat, templates = splits["test"], options.compat, templates_of(dataset)
    if task == "zero-shot":
        from oneclip.evaluate.zero_shot import score_zero_shot

        return score_zero_shot(dataset, test, text, templates=templates, compat=compat)
    if task == "multilabel":
        from oneclip.evaluate.multilabel import score_multilabel

        return score_multilabel(dataset, test, text, templates=templates, compat=compat)
    if task == "retrieval":
        from oneclip.evaluate.retrieval import score_retrieval

        return score_retrieval(dataset, test, text, at=options.recall_at, compat=compat)
    if task == "caption-selection":
        from oneclip.evaluate.caption_selection import score_caption_selection

        return score_caption_selection(dataset, test, text, compat=compat)
    if task == "linear-probe":
        from oneclip.evaluate.compat_linear_probe import CompatSchedule
        from oneclip.evaluate.linear_probe import score_linear_probe

        schedule = CompatSchedule() if compat else None
        return score_linear_probe(dataset, splits, seed=options.seed, compat=schedule)
    from oneclip.evaluate.few_shot import score_few_shot

    return score_few_shot(
        dataset,
        splits,
        text,
        shots=options.shots,
        seeds=options.seeds,
        templates=templates,
        method=options.method,
    )


def relevant_options(tasks: str, options: TaskOptions) -> dict[str, Any]:
    """Return the options that the figures of a task depend on."""
    values = options.to_dict()
    return {key: values[key] for key in (*TASKS[tasks].options, "compat")}


def describe_templates(templates: Templates) -> Any:
    """Return templates as JSON values; a function is described by its name."""
    if isinstance(templates, Mapping):
        return {name: list(prompts) for name, prompts in templates.items()}
    return [one if isinstance(one, str) else getattr(one, "__qualname__", "a function") for one in templates]


def parse_numbers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """Parse "1,2,4" as increasing whole numbers.

    Raises:
        ConfigError: for anything else.
    """
    try:
        numbers: Sequence[int] = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < least:
        raise ConfigError(f"{option} is {text!r}; expected whole numbers of at least {least}, such as 1,2,4")
    return tuple(numbers)
