"""What goes wrong in reading a file to a `CheckpointError` that names the file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oneclip.errors import CheckpointError, OneCLIPError


class Unsound(Exception):
    """What is wrong with a file, in words that go on after its name: "it describes …"."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged or hostile file raises into a CheckpointError.

    Errors of ours pass. `MemoryError` and what `Exception` does not hold pass, too: they say nothing about the
    file.
    """
    try:
        yield
    except OneCLIPError:
        raise
    except Unsound as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    except zipfile.BadZipFile as error:
        why = "truncated or damaged" if "not a zip file" in str(error) else f"damaged ({error})"
        size = path.stat().st_size
        raise CheckpointError(f"{path} is {why}; it has {size:,} bytes. Fetch it again") from error
    except (OSError, ValueError, RuntimeError, EOFError, LookupError, ArithmeticError, zlib.error) as error:
        why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise CheckpointError(f"{path} cannot be used: it is truncated or damaged ({why})") from error
