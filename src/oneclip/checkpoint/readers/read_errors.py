"""Turn the errors of reading a damaged or hostile file into a `CheckpointError` that names the file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oneclip.errors import CheckpointError, OneCLIPError


class MalformedFile(Exception):
    """Reason why a file cannot be used; the message continues a sentence about the file: "it describes …"."""


@contextmanager
def as_checkpoint_error(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged or hostile file raises into a CheckpointError.

    Errors of this library pass unchanged. So do `MemoryError` and `KeyboardInterrupt`, which say nothing about the
    file.
    """
    try:
        yield
    except OneCLIPError:
        raise
    except MalformedFile as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    except zipfile.BadZipFile as error:
        why = "truncated or damaged" if "not a zip file" in str(error) else f"damaged ({error})"
        size = path.stat().st_size
        raise CheckpointError(f"{path} is {why}; it has {size:,} bytes. Download it again") from error
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        LookupError,
        ArithmeticError,
        struct.error,
        zlib.error,
    ) as error:
        why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise CheckpointError(f"{path} cannot be used: it is truncated or damaged ({why})") from error
