"""What can go wrong, as one tree of exceptions.

OneCLIPError
├── ConfigError (ValueError)              a configuration that contradicts itself, or has an unknown key
│   └── TokenizerNotFoundError (FileNotFoundError)  a model without the files of its tokenizer
├── UnknownModelError (KeyError, RuntimeError)  a name that is no architecture, tag, file or folder
│   └── ModelNotFoundError (FileNotFoundError)  a path with no file or folder
├── AmbiguousModelError (ValueError)      weights whose activation, preprocessing or tokenizer cannot be known
├── CheckpointError (RuntimeError)        a file that is damaged, unsafe, or not a checkpoint
│   ├── CheckpointNotFoundError (FileNotFoundError)  a path with no checkpoint
│   └── CheckpointMismatchError           keys or shapes that do not fit the model
├── DownloadError (OSError)               a file that could not be fetched
│   ├── ChecksumError (RuntimeError)      a file whose bytes are not the published ones
│   └── OfflineError                      a file that is not here, while the network is switched off
├── ImageError (ValueError)               a picture that cannot be read or used
│   ├── ImageNotFoundError (FileNotFoundError)  a path with no file
│   └── ImageTooLargeError                more pixels than the limit
├── TextError (ValueError)                a caption that cannot be used
│   ├── TextTypeError (TypeError)         a caption that is not a string
│   └── TextTooLongError (RuntimeError)   more tokens than the context holds
├── ShapeError (ValueError)               a tensor of the wrong shape or range
│   └── TokenRangeError (IndexError)      a token id outside the vocabulary
├── DataError (ValueError)                a table or folder of training data that cannot be used
├── TrainingError (RuntimeError)          a training that cannot go on: its loss is no longer a number
├── ClusterError (RuntimeError)           machines that cannot do together what they were asked
├── OutputError (OSError)                 a result that could not be written
└── MissingExtraError (ImportError)       an optional dependency that is not installed
    └── BrokenExtraError                  one that is installed, and cannot be imported

The built-in bases are there so that programs which catch those keep working. Only the command line prints and
exits.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class OneCLIPError(Exception):
    """Base of every error that this library raises on purpose. Pickles, whatever its constructor takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[OneCLIPError], args: tuple[Any, ...], attributes: dict[str, Any]) -> OneCLIPError:
    """Make an unpickled error, without the constructor that wrote its message."""
    error = (OSError if issubclass(kind, OSError) else Exception).__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class _NotFound(FileNotFoundError):
    """What our errors about missing files share: the number that programs compare with `errno.ENOENT`."""

    errno = errno.ENOENT


class ConfigError(OneCLIPError, ValueError):
    """A configuration that contradicts itself, misses a value or has an unknown key."""


class TokenizerNotFoundError(ConfigError, _NotFound):
    """A model without the files of its tokenizer; it encodes images all the same."""


class UnknownModelError(OneCLIPError, KeyError, RuntimeError):
    """A name that is neither an architecture, a pretrained tag, a file nor a folder."""

    def __init__(self, name: str, known: Iterable[str] = (), *, kind: str = "model", hint: str = "") -> None:
        near = nearest(name, known)
        text = f"{name!r} is not a known {kind}"
        text += f"; did you mean {', '.join(near)}?" if near else "."
        super().__init__(f"{text} {hint}".rstrip())

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class ModelNotFoundError(UnknownModelError, _NotFound):
    """A path of a model with no file or folder."""


class AmbiguousModelError(OneCLIPError, ValueError):
    """Weights that load, but whose activation, preprocessing or tokenizer cannot be known."""


class CheckpointError(OneCLIPError, RuntimeError):
    """A file that is damaged, unsafe to open, or not a checkpoint."""


class CheckpointNotFoundError(CheckpointError, _NotFound):
    """A path of a checkpoint, or of a part of one, with no file."""


class CheckpointMismatchError(CheckpointError):
    """Keys or shapes that do not fit the model.

    Args:
        source: what was being loaded, for the message.
        missing: keys that the model has and the checkpoint lacks.
        unexpected: keys that the checkpoint has and the model lacks.
        reshaped: (key, shape in the checkpoint, shape in the model).
        hint: the way out, as a sentence; by default to look at the architecture named.
    """

    def __init__(
        self,
        source: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        reshaped: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        hint: str = "Check that the architecture named is the one the weights were trained with.",
    ) -> None:
        self.missing, self.unexpected, self.reshaped = list(missing), list(unexpected), list(reshaped)
        lines = [f"{source} does not fit the model; nothing was loaded."]
        lines += _listing("missing from the checkpoint", self.missing)
        lines += _listing("unexpected in the checkpoint", self.unexpected)
        lines += _listing(
            "of another shape",
            [f"{key}: {there} in the checkpoint, {here} in the model" for key, there, here in reshaped],
        )
        lines.append(hint)
        super().__init__("\n".join(lines))


class DownloadError(OneCLIPError, OSError):
    """A file that could not be fetched."""


class ChecksumError(DownloadError, RuntimeError):
    """A fetched file whose bytes are not the published ones; it is deleted, never used."""


class OfflineError(DownloadError):
    """A file that is not on this machine, while the network is switched off."""


class ImageError(OneCLIPError, ValueError):
    """A picture that cannot be read or used."""


class ImageNotFoundError(ImageError, _NotFound):
    """A path of an image with no file."""


class ImageTooLargeError(ImageError):
    """A picture with more pixels than the limit allows (a decompression bomb, perhaps)."""


class TextError(OneCLIPError, ValueError):
    """A caption that cannot be used."""


class TextTypeError(TextError, TypeError):
    """A caption that is not a string."""


class TextTooLongError(TextError, RuntimeError):
    """A caption of more tokens than the context holds."""


class ShapeError(OneCLIPError, ValueError):
    """A tensor of the wrong shape, dtype or range."""


class TokenRangeError(ShapeError, IndexError):
    """A token id outside the vocabulary."""


class DataError(OneCLIPError, ValueError):
    """A table or a folder of training data that cannot be used."""


class TrainingError(OneCLIPError, RuntimeError):
    """A training that cannot go on, such as one whose loss is no longer a number."""


class ClusterError(OneCLIPError, RuntimeError):
    """Machines, or processes, that cannot do together what they were asked; what they have done is kept."""


class OutputError(OneCLIPError, OSError):
    """A result that could not be written; what stood there before is untouched."""


class MissingExtraError(OneCLIPError, ImportError):
    """An optional dependency that is not installed.

    Args:
        feature: what was asked for, as the start of a sentence ("Writing Parquet").
        extra: the extra of this distribution that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: pip install 'oneclip[{extra}]'")


class BrokenExtraError(MissingExtraError):
    """An optional dependency that is installed and cannot be imported.

    Args:
        feature: what was asked for, as the start of a sentence.
        package: what is installed.
        why: what the import said, and what to do about it.
    """

    def __init__(self, feature: str, package: str, why: str) -> None:
        ImportError.__init__(
            self, f"{feature} needs {package}, which is installed and cannot be imported: {why}"
        )


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest to a mistyped one, ignoring case and separators; best first."""

    def fold(text: str) -> str:
        return text.lower().replace("/", "-").replace("_", "-")

    folded = {fold(candidate): candidate for candidate in known}
    return [folded[match] for match in get_close_matches(fold(name), folded, n=count, cutoff=0.6)]


def _listing(what: str, items: Sequence[str], limit: int = 8) -> list[str]:
    """Lines that name up to `limit` items and count the rest."""
    if not items:
        return []
    lines = [f"  {len(items)} {what}:"] + [f"    {item}" for item in items[:limit]]
    return lines + ([f"    … and {len(items) - limit} more"] if len(items) > limit else [])
