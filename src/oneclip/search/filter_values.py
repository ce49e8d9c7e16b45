"""Columns of filters, and the values that they are compared with.

Functions that convert the text of a value raise ValueError with a message for people.
"""

from __future__ import annotations

import os
import re
import unicodedata
from datetime import datetime, timedelta, timezone
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "text", "format", "orientation", "whole", "bytes", "number", "time", "file time", "place"
]

COLUMNS: dict[str, Kind] = {
    "path": "text",
    "name": "text",
    "folder": "text",
    "taken_at": "time",
    "camera": "text",
    "width": "whole",
    "height": "whole",
    "megapixels": "number",
    "bytes": "bytes",
    "orientation": "orientation",
    "format": "format",
    "latitude": "number",
    "longitude": "number",
    "place": "place",
    "modified": "file time",
}
ORIENTATIONS = ("landscape", "portrait", "square")
OTHER_NAMES = {
    "size": "bytes", "date": "taken_at", "time": "taken_at", "year": "taken_at", "taken": "taken_at",
    "mtime": "modified", "file": "name", "filename": "name", "directory": "folder", "make": "camera",
    "model": "camera", "gps": "place", "location": "place", "type": "format", "extension": "format",
}  # fmt: skip
_OTHER_FORMATS = {"jpg": "jpeg", "tif": "tiff", "heic": "heif", "jp2": "jpeg2000", "dng": "raw"}

LAST_TIME = "~"  # sorts after every time as text
_LARGEST = 10**15  # of numbers; larger ones are mistakes, and engines do not agree on them
_LARGEST_NS = 2**63 - 1
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", start=1)
    for name, base in ((letter, 1000), (f"{letter}b", 1000), (f"{letter}ib", 1024))
}
_DISTANCES = {"km": 1.0, "m": 0.001, "mi": 1.609344}
_TIME = re.compile(
    r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{1,2})(?::(\d{2})(?::(\d{2}))?)?)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_TIME_EXAMPLES = "2023, 2023-05, 2023-05-01 or 2023-05-01T12:30"


def plain_text(value: str | bytes) -> str:
    """Return a text or path as it is compared: composed accents, and "?" for bytes of a file name that are no text."""
    text = os.fsdecode(value)
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))


def format_name(text: str) -> str:
    """Return a format as the catalogue names it: "jpeg" for JPG."""
    name = plain_text(text).lower()
    return _OTHER_FORMATS.get(name, name)


def orientation(text: str) -> str:
    """Return one of ORIENTATIONS."""
    if text.lower() not in ORIENTATIONS:
        raise ValueError(
            f"orientation is {', '.join(ORIENTATIONS[:-1])} or {ORIENTATIONS[-1]}; found {text!r}"
        )
    return text.lower()


def decimal(text: str, what: str = "a number") -> float:
    """Convert a decimal number."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"expected {what}, found {text!r}")
    value = float(text)
    if abs(value) > _LARGEST:
        raise ValueError(f"{text[:30]} is too large")
    return value


def whole(text: str) -> int:
    """Convert a whole number."""
    value = decimal(text, "a whole number")
    if value != int(value):
        raise ValueError(f"expected a whole number, found {text!r}")
    return int(value)


def byte_count(text: str) -> int:
    """Convert a file size: 500000, 500kB, 2MB, 1.5GiB."""
    found = _SIZE.fullmatch(text)
    if not found or found[2].lower() not in _UNITS:
        raise ValueError(f"expected a size such as 500kB or 2MB, found {text!r}")
    count: int = round(decimal(found[1]) * _UNITS[found[2].lower()])
    return count


def kilometres(text: str) -> float:
    """Convert a distance: 10km, 500m, 3mi."""
    found = _SIZE.fullmatch(text)
    if not found or found[2].lower() not in _DISTANCES:
        raise ValueError(f"expected a distance such as 10km, 500m or 3mi, found {text!r}")
    return decimal(found[1]) * _DISTANCES[found[2].lower()]


def coordinate(text: str, limit: int) -> float:
    """Convert a latitude (limit 90) or longitude (limit 180) in degrees."""
    name = "latitude" if limit == 90 else "longitude"
    value = decimal(text, f"a {name} in degrees")
    if abs(value) > limit:
        raise ValueError(f"a {name} is between -{limit} and {limit}; found {text}")
    return value


def time_interval(text: str) -> tuple[str, str]:
    """Return the first second of a date or time, and the first after it: 2023-05 is all of May.

    Both are texts such as "2023-05-01T00:00:00", which sort as the times do.
    """
    first, end = _interval(text)
    return first.isoformat(), LAST_TIME if end is None else end.isoformat()


def time_interval_ns(text: str) -> tuple[int, int]:
    """Return the same in nanoseconds since 1970, for a time in the time zone of this machine."""
    first, end = _interval(text)
    return _nanoseconds(first), _LARGEST_NS if end is None else _nanoseconds(end)


def _interval(text: str) -> tuple[datetime, datetime | None]:
    """Return the first second of a time, and the first after it; None if it ends with the year 9999."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(
            f"expected a date such as {_TIME_EXAMPLES}, found {text!r}"
            + (
                "; times are compared without their time zone"
                if re.search(r"\d(Z|[+-]\d\d:?\d\d)$", text)
                else ""
            )
        )
    parts = [int(part) for part in found.groups() if part]
    try:
        first = datetime(*(parts + [1, 1][len(parts) - 1 :]))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date: {error}") from error
    try:
        if len(parts) == 1:
            return first, first.replace(year=first.year + 1)
        if len(parts) == 2:
            return first, (first + timedelta(days=31)).replace(day=1)
        units = (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))
        return first, first + units[len(parts) - 3]
    except (ValueError, OverflowError):
        return first, None


def _nanoseconds(time: datetime) -> int:
    try:
        seconds = int(time.timestamp())
    except (ValueError, OverflowError, OSError):  # a year that the system cannot convert
        seconds = int(time.replace(tzinfo=timezone.utc).timestamp())
    return max(-_LARGEST_NS, min(seconds * 10**9, _LARGEST_NS))
