"""`oneclip probe`: make a classifier of one's own from a few images per class."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.images import echo_not_read, echo_skipped
from oneclip.errors import CheckpointError, ImageError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneclip.encoder import Encoder
    from oneclip.evaluate import EvaluationDataset, LinearProbe
    from oneclip.evaluate.encoded import EncodedSplit


def probe(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder with one folder of images per class, or with folders train, val and test of these; a table "
            "with the columns filepath and label; or another data set with classes.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="File to write, such as my.probe.")],
    model: options.ModelOption = "pocket",
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    batch_size: options.BatchSizeOption = 32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
    regularization: Annotated[
        float | None,
        typer.Option(
            "--regularization",
            "-C",
            metavar="C",
            help="Inverse strength, as in scikit-learn. [default: chosen by cross-validation, or on val]",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Seed of the cross-validation.")
    ] = 0,
    skip: options.SkipOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Make a classifier of your own from a few images per class.

    Five images per class are enough to start. It is a linear probe: a logistic regression on the image embeddings of a
    model. The file contains the classifier and which model it is for, not the model. If DATA has a folder test, the
    accuracy on it is measured.

    \b
    Examples:
      oneclip probe photos/ -o my.probe --model ViT-B-32-256:datacomp_s34b_b86k
      oneclip classify --probe my.probe new.jpg
    """
    _check_target(out)
    options.check_model(model)
    from oneclip.evaluate import open_dataset

    dataset = open_dataset(data)
    encoder = options.load_encoder(model, device, precision, max_pixels, truncated)
    splits = _encode(dataset, encoder, batch_size)
    skipped = [failure for split in splits.values() for failure in split.skipped]
    echo_skipped(skipped, skip=skip)
    echo_not_read(dataset.not_read)
    if skipped and not skip:
        total = len(skipped) + sum(map(len, splits.values()))
        raise ImageError(
            f"{out} was not written, because {len(skipped)} of {total} images cannot be read; --skip leaves them out"
        )
    fitted, facts = _fit(dataset, encoder, splits, regularization, seed)
    fitted.save(out)
    if as_json:
        skips = [{"path": one.name, "reason": one.reason} for one in skipped]
        print(json.dumps({"model": encoder.name, "probe": out, **facts, "skipped": skips}, indent=2))
    else:
        _print_table(facts)
        echo_stderr(f"wrote {out}; use it with: oneclip classify --probe {out} IMAGE")
    if skipped:
        raise typer.Exit(ExitCode.SKIPPED)


def _check_target(path: str) -> None:
    """Check that a file can be written, and that it would not replace something else than a probe."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise OutputError(f"{path} cannot be written: there is no folder {folder}")
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder; name a file, such as {os.path.join(path, 'my.probe')}")
    if not os.path.exists(path):
        return
    from oneclip.evaluate.probe_file import read_probe

    try:
        read_probe(path)
    except CheckpointError as error:
        raise OutputError(f"{path} exists and is not a probe; choose another name ({error})") from error


def _encode(dataset: EvaluationDataset, encoder: Encoder, batch_size: int) -> Mapping[str, EncodedSplit]:
    """Encode the splits to learn from and to measure on. A data set without splits has only "train"."""
    from oneclip.cli.progress_bars import throughput_bar
    from oneclip.evaluate.encodings import encode_split, open_caches
    from oneclip.evaluate.evaluated_model import EvaluatedModel

    learned = {name: name for name in ("train", "val", "test") if name in dataset.splits}
    if "train" not in learned:
        learned = {"train": "test"}
    model = EvaluatedModel(encoder)
    encoded = {}
    with open_caches(remedy="set ONECLIP_CACHE to another folder") as caches:
        for use, name in learned.items():
            with throughput_bar("images") as show:
                (encoded[use],) = encode_split(
                    [model], dataset.splits[name], caches, batch_size=batch_size, report=show
                )
    return encoded


def _fit(
    dataset: EvaluationDataset,
    encoder: Encoder,
    splits: Mapping[str, EncodedSplit],
    regularization: float | None,
    seed: int,
) -> tuple[LinearProbe, dict[str, Any]]:
    """Fit the probe; return it and what is printed about it."""
    from oneclip.evaluate import LinearProbe
    from oneclip.evaluate.classification import class_labels
    from oneclip.evaluate.statistics import bootstrap_interval

    names = {
        use: [dataset.classes[label] for label in class_labels(dataset, split)]
        for use, split in splits.items()
    }
    val = (splits["val"].embeddings, names["val"]) if "val" in splits else None
    probe = LinearProbe(encoder, C=regularization, seed=seed)
    probe.fit(splits["train"].embeddings, names["train"], validation=val)
    facts = {
        "classes": dict(Counter([*names["train"], *names.get("val", [])])),
        "C": probe.C,
        "accuracy": probe.accuracy,
        "measured_on": None if probe.accuracy is None else "val" if val else "cross-validation",
        "test": None,
    }
    if "test" in splits:
        found = probe.predict(splits["test"].embeddings)
        correct = [right == name for right, name in zip(names["test"], found, strict=True)]
        facts["test"] = {
            "images": len(correct),
            "accuracy": sum(correct) / len(correct),
            "interval": bootstrap_interval(correct),
        }
    return probe, facts


def _print_table(facts: dict[str, Any]) -> None:
    from oneclip.cli.table_output import Column, format_percent, print_table

    classes = facts["classes"]
    rows = [
        ["classes", str(len(classes))],
        ["images", f"{sum(classes.values())}, {min(classes.values())} to {max(classes.values())} per class"],
        ["regularization", f"C = {facts['C']:.4g}"],
    ]
    if facts["accuracy"] is not None:
        rows.append([f"accuracy ({facts['measured_on']})", format_percent(facts["accuracy"])])
    if facts["test"] is not None:
        low, high = facts["test"]["interval"]
        accuracy = format_percent(facts["test"]["accuracy"])
        rows.append(["accuracy (test)", f"{accuracy}, {format_percent(low)} to {format_percent(high)}"])
    print_table([Column("probe", "cyan"), Column("")], rows)
