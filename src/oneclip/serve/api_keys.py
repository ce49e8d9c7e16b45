"""API keys: read from a file, compared in constant time, and read again on demand."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

from starlette.datastructures import Headers

from oneclip.errors import ConfigError

logger = logging.getLogger(__name__)


class ApiKeys:
    """Keys of a file, one on each line; empty lines and those that begin with # are skipped.

    Args:
        path: of the file.

    Raises:
        ConfigError: if it cannot be read, has no key, or a key with a space or a character outside ASCII.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._digests = _read_digests(path)

    def reload(self) -> None:
        """Read the file again. If that fails, the keys stay as they are, and the reason is logged."""
        try:
            self._digests = _read_digests(self.path)
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("%d keys read from %s", len(self._digests), self.path)

    def accept(self, headers: Headers) -> bool:
        """Return whether the headers of a request have a known key: `Authorization: Bearer KEY` or `X-API-Key: KEY`.

        The time that it takes does not depend on the key: digests are compared, and always with all known ones.
        """
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            given = headers.get("x-api-key", "")
        digest, known = _digest(given.strip()), False
        for each in self._digests:
            known |= hmac.compare_digest(digest, each)
        return known


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _read_digests(path: str) -> tuple[bytes, ...]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise ConfigError(f"the file of keys {path} cannot be read: {reason}") from error
    digests = []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"the key in line {number} of {path} has a space or a character outside ASCII, which no client can send"
            )
        digests.append(_digest(key))
    if not digests:
        raise ConfigError(f"the file of keys {path} has no key; expected one on each line")
    return tuple(digests)
