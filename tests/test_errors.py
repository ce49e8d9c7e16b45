"""Exceptions: built-in base classes, copies and pickles."""

import copy
import errno
import pickle
from pathlib import Path

import pytest

import oneclip
from oneclip import checkpoint, errors

EXAMPLES = [
    errors.ConfigError("a message"),
    errors.UnknownModelError("ViT-B/23", ["ViT-B/32"], kind="architecture", hint="Look again."),
    errors.ModelNotFoundError("nowhere.pt", kind="file"),
    errors.CheckpointMismatchError("a file", ["a.weight"], [], [("b.weight", (1,), (2,))]),
    errors.OfflineError("a message"),
    errors.ImageNotFoundError("a message"),
    errors.TokenizerNotFoundError("a message"),
    errors.MissingExtraError("Writing Parquet", "parquet"),
    errors.BrokenExtraError("Writing Parquet", "pyarrow", "it is too old"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_is_the_same_after_a_copy(error: errors.OneCLIPError, copied: object) -> None:
    again = copied(error)  # type: ignore[operator]
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "name",
    [
        "nowhere.pt",
        "./nowhere",
        "no/such/folder",
        "ViT-B-32:nowhere.pt",
        "local-dir:nowhere",
        Path("nowhere"),
    ],
)
def test_a_missing_model_is_a_missing_file(name: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere|no/such") as caught:
        oneclip.load(name, device="cpu")
    assert isinstance(caught.value, errors.UnknownModelError)
    assert caught.value.errno == errno.ENOENT


def test_a_mistyped_name_is_not_a_missing_file() -> None:
    with pytest.raises(errors.UnknownModelError) as caught:
        oneclip.load("ViT-B/23")
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_missing_checkpoint_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt") as caught:
        checkpoint.read(tmp_path / "nowhere.pt")
    assert isinstance(caught.value, errors.CheckpointError)


def test_a_missing_image_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such file") as caught:
        oneclip.image.open_image(tmp_path / "nowhere.png")
    assert isinstance(caught.value, errors.ImageError)
    assert caught.value.errno == errno.ENOENT
