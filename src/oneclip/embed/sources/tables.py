"""CSV and Parquet tables to the pictures that a column holds or names, or to the captions in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from oneclip.embed.items import Failure, Found, Item
from oneclip.embed.sources.files import file_item
from oneclip.embed.sources.lines import beside
from oneclip.errors import DataError
from oneclip.hub.tables import Row, TableReader

PICTURE_COLUMNS = (
    *("filepath", "path", "image_path", "file_name", "filename", "image", "url", "image_url"),
    *("bytes", "jpg", "png"),
)
CAPTION_COLUMNS = ("caption", "text", "title")
LONGEST_PATH = 4096  # characters, as Linux has it; addresses may be longer in theory


class Table:
    """A table; a picture with a path or an address is called by it, all else `table.csv:7`, counted from 1.

    A value may be a path, an address, the bytes of a file, or what `datasets` writes: {"bytes": …, "path": …}.

    Args:
        place: path or address of a .csv, .tsv (UTF-8, with a header), .parquet or .pq file.
        texts: whether the column has captions.
        column: its name; by default the first that is called like one.
        folder: what paths in it are relative to; the table's own folder if not given.
        id_column: what the items are called by, instead: text or whole numbers, each once.
    """

    def __init__(
        self,
        place: str,
        *,
        texts: bool,
        column: str | None,
        folder: str | None,
        id_column: str | None = None,
    ) -> None:
        self.name, self._texts, self._folder = place, texts, folder
        self._reader = TableReader(place, wanted=(column,) if column else _usual(texts))
        self._column = self._choose(column)
        self._id_column = None if id_column is None else self._reader.check_column(id_column)
        column_type = self._reader.types.get(self._column, "string")
        self.is_bulky = column_type not in ("string", "large_string", "string_view")

    def count(self) -> int | None:
        """How many rows a Parquet file has; of CSV nobody knows before it is read."""
        return self._reader.count

    def __iter__(self) -> Iterator[Found]:
        rows = self._reader.rows([self._column, *([self._id_column] if self._id_column else [])])
        ids: dict[str, int] = {}
        number = 0
        while True:
            try:
                row = next(rows, None)
            except DataError as error:
                yield Failure(self.name, str(error), hides_others=True)
                return
            if row is None:
                break
            number = row.number
            name = f"{self.name}:{row.number}"
            if row.problem is not None:
                yield Failure(name, f"{name}: {row.problem}", hides_others=True)
            else:
                found = self._item(name, self._checked(row.values[0]))
                yield found if len(row.values) == 1 else self._called(found, row, ids)
        if not number:
            yield Failure(self.name, f"{self.name}: a table with a header and no rows", hides_others=True)

    def _called(self, found: Found, row: Row, ids: dict[str, int]) -> Found:
        """An item by its id, if no row before it has that."""
        if isinstance(found, Failure):
            return found
        value = row.values[1]
        name = f"{self.name}:{row.number}"
        if not isinstance(value, (str, int)) or not str(value).strip():
            return Failure(
                name,
                f"{name}: its id in the column {self._id_column!r} is {value!r}; expected text or a number",
            )
        item = replace(found, name=str(value).strip(), key="")
        first = ids.setdefault(item.key, row.number)
        if first != row.number:
            return Failure(name, f"{name}: its id {item.name!r} is that of row {first}, too; ids differ")
        return item

    def _item(self, row: str, value: Any) -> Found:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is not None and not isinstance(value, (str, bytes)):
            return Failure(
                row, f"{row}: its column {self._column!r} has {type(value).__name__} where a path should be"
            )
        if not value or (isinstance(value, str) and not value.strip()):
            return Failure(row, f"{row}: nothing stands in its column {self._column!r}")
        if isinstance(value, bytes):
            return Item(row, partial(bytes, value))
        if self._texts:
            return Item(row, str(value).encode)
        if len(value) > LONGEST_PATH:
            return Failure(
                row,
                f"{row}: its column {self._column!r} has {len(value):,} characters, which are no path or address "
                f"({value[:20]}…); images in a table are bytes in Parquet, not base64",
            )
        return file_item(beside(self.name, value.strip(), self._folder))

    def _checked(self, value: Any) -> Any:
        if value is None or isinstance(value, (str, dict) if self._texts else (str, bytes, dict)):
            return value
        raise DataError(
            f"the column {self._column!r} of {self.name} has {type(value).__name__}; "
            f"expected {'captions' if self._texts else 'paths, addresses or bytes'}: --column names another"
        )

    def _choose(self, column: str | None) -> str:
        if column is not None:
            return self._reader.check_column(column)
        lowered = {name.lower(): name for name in reversed(self._reader.names)}
        for usual in _usual(self._texts):
            if usual in lowered:
                return self._reader.check_column(lowered[usual])
        what = "captions" if self._texts else "pictures"
        has = f"it has {', '.join(map(repr, self._reader.names)) or 'none'}"
        raise DataError(f"{self.name}: which column has the {what}? Say --column NAME; {has}")


def _usual(texts: bool) -> tuple[str, ...]:
    return CAPTION_COLUMNS if texts else PICTURE_COLUMNS
