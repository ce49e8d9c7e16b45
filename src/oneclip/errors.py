"""Exceptions that this library raises, as one tree.

OneCLIPError
├── ConfigError (ValueError)              invalid configuration: a contradiction, a missing value or an unknown key
│   └── TokenizerNotFoundError (FileNotFoundError)  tokenizer files not found
├── UnknownModelError (KeyError, RuntimeError)  unknown architecture, tag, file or folder
│   └── ModelNotFoundError (FileNotFoundError)  path without a file or folder
├── AmbiguousModelError (ValueError)      weights whose activation, preprocessing or tokenizer is unknown
├── CheckpointError (RuntimeError)        file that is damaged, unsafe, or not a checkpoint
│   ├── CheckpointNotFoundError (FileNotFoundError)  path without a checkpoint
│   └── CheckpointMismatchError           keys or shapes that do not fit the model
├── DownloadError (OSError)               failed download
│   ├── ChecksumError (RuntimeError)      downloaded file with a wrong checksum
│   └── OfflineError                      file not on this machine, and the network is switched off
├── ImageError (ValueError)               image that cannot be read or used
│   ├── ImageNotFoundError (FileNotFoundError)  path without a file
│   └── ImageTooLargeError                more pixels than the limit
├── TextError (ValueError)                text that cannot be used
│   ├── TextTypeError (TypeError)         text that is not a string
│   └── TextTooLongError (RuntimeError)   more tokens than the context length
├── ShapeError (ValueError)               tensor of the wrong shape, dtype or range
│   └── TokenRangeError (IndexError)      token id outside the vocabulary
├── DataError (ValueError)                table or folder of data that cannot be used
├── QueryError (ValueError)               search query or filter that cannot be understood
├── TrainingError (RuntimeError)          training that cannot continue
├── ClusterError (RuntimeError)           failure of machines or processes that work together
├── OutputError (OSError)                 result that could not be written
└── MissingExtraError (ImportError)       optional dependency that is not installed
    └── BrokenExtraError                  optional dependency that is installed but cannot be imported

Programs that catch the built-in base classes in parentheses keep working. The library raises; only the command line
prints errors and exits.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from oneclip.installation import install_command


class OneCLIPError(Exception):
    """Base class of the errors of this library. Can be pickled, whatever the arguments of the constructor."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_error, (type(self), self.args, self.__dict__)


def _restore_error(
    kind: type[OneCLIPError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> OneCLIPError:
    """Restore an unpickled error without calling its constructor, which would format the message again."""
    error = (OSError if issubclass(kind, OSError) else Exception).__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class _NotFound(FileNotFoundError):
    """Base class of errors about missing files; sets `errno`, which programs compare with `errno.ENOENT`."""

    errno = errno.ENOENT


class ConfigError(OneCLIPError, ValueError):
    """Invalid configuration: a contradiction, a missing value or an unknown key."""


class TokenizerNotFoundError(ConfigError, _NotFound):
    """Tokenizer files of a model not found. The model can still encode images."""


class UnknownModelError(OneCLIPError, KeyError, RuntimeError):
    """Name that is not an architecture, a pretrained tag, a file or a folder.

    Args:
        name: as given.
        known: valid names, from which the closest are suggested.
        kind: what the name should be, such as "tag".
        hint: a sentence after the message.
    """

    def __init__(self, name: str, known: Iterable[str] = (), *, kind: str = "model", hint: str = "") -> None:
        near = nearest_names(name, known)
        text = f"{name!r} is not a known {kind}"
        text += f"; did you mean {', '.join(near)}?" if near else "."
        super().__init__(f"{text} {hint}".rstrip())

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class ModelNotFoundError(UnknownModelError, _NotFound):
    """Path of a model without a file or folder."""


class AmbiguousModelError(OneCLIPError, ValueError):
    """Weights that can be read, but whose activation, preprocessing or tokenizer is unknown."""


class CheckpointError(OneCLIPError, RuntimeError):
    """File that is damaged, unsafe to open, or not a checkpoint."""


class CheckpointNotFoundError(CheckpointError, _NotFound):
    """Path of a checkpoint, or of a part of one, without a file."""


class CheckpointMismatchError(CheckpointError):
    """Keys or shapes that do not fit the model.

    Args:
        source: the file or folder, for the message.
        missing: keys of the model that the checkpoint does not have.
        unexpected: keys of the checkpoint that the model does not have.
        reshaped: (key, shape in the checkpoint, shape in the model).
        hint: what to do, as a sentence.
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
        lines += _list_items("missing from the checkpoint", self.missing)
        lines += _list_items("unexpected in the checkpoint", self.unexpected)
        lines += _list_items(
            "of another shape",
            [f"{key}: {there} in the checkpoint, {here} in the model" for key, there, here in reshaped],
        )
        lines.append(hint)
        super().__init__("\n".join(lines))


class DownloadError(OneCLIPError, OSError):
    """Download that failed."""


class ChecksumError(DownloadError, RuntimeError):
    """Downloaded file whose checksum is not the published one. It is deleted, not used."""


class OfflineError(DownloadError):
    """File that is not on this machine while the network is switched off."""


class ImageError(OneCLIPError, ValueError):
    """Image that cannot be read or used."""


class ImageNotFoundError(ImageError, _NotFound):
    """Path of an image without a file."""


class ImageTooLargeError(ImageError):
    """Image with more pixels than the limit, such as a decompression bomb."""


class TextError(OneCLIPError, ValueError):
    """Text that cannot be used."""


class TextTypeError(TextError, TypeError):
    """Text that is not a string."""


class TextTooLongError(TextError, RuntimeError):
    """Text with more tokens than the context length."""


class ShapeError(OneCLIPError, ValueError):
    """Tensor of the wrong shape, dtype or range."""


class TokenRangeError(ShapeError, IndexError):
    """Token id outside the vocabulary."""


class DataError(OneCLIPError, ValueError):
    """Table or folder of training or evaluation data that cannot be used."""


class QueryError(OneCLIPError, ValueError):
    """Search query or filter that cannot be understood."""


class TrainingError(OneCLIPError, RuntimeError):
    """Training that cannot continue, for example because its loss is NaN."""


class ClusterError(OneCLIPError, RuntimeError):
    """Failure of machines or processes that work together. Results that they have written are kept."""


class OutputError(OneCLIPError, OSError):
    """Result that could not be written. An older result in its place is unchanged."""


class MissingExtraError(OneCLIPError, ImportError):
    """Optional dependency that is not installed.

    Args:
        feature: the requested feature, as the start of a sentence ("Writing Parquet").
        extra: the extra of this distribution that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: {install_command(extra)}")


class BrokenExtraError(MissingExtraError):
    """Optional dependency that is installed but cannot be imported.

    Args:
        feature: the requested feature, as the start of a sentence.
        package: the installed package.
        why: the error of the import, and what to do.
    """

    def __init__(self, feature: str, package: str, why: str) -> None:
        ImportError.__init__(
            self, f"{feature} needs {package}, which is installed but cannot be imported: {why}"
        )


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known names closest to a mistyped one, ignoring case and separators; best first."""

    def fold(text: str) -> str:
        return text.lower().replace("/", "-").replace("_", "-")

    folded = {fold(candidate): candidate for candidate in known}
    return [folded[match] for match in get_close_matches(fold(name), folded, n=count, cutoff=0.6)]


def _list_items(what: str, items: Sequence[str], limit: int = 8) -> list[str]:
    """Return lines that name up to `limit` items and count the rest."""
    if not items:
        return []
    lines = [f"  {len(items)} {what}:"] + [f"    {item}" for item in items[:limit]]
    return lines + ([f"    … and {len(items) - limit} more"] if len(items) > limit else [])
