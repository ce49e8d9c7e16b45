"""CSV and Parquet tables with a column of images (paths, addresses or bytes) or of texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from oneclip.embed.items import Failure, Found, Item
from oneclip.embed.sources.files import file_item
from oneclip.embed.sources.lines import resolve_listed_path
from oneclip.errors import DataError
from oneclip.hub.tables import TableReader, TableRow

IMAGE_COLUMNS = (
    *("filepath", "path", "image_path", "file_name", "filename", "image", "url", "image_url"),
    *("bytes", "jpg", "png"),
)
TEXT_COLUMNS = ("caption", "text", "title")
MAX_PATH_CHARS = 4096  # the limit of Linux; longer addresses are rare


class TableSource:
    """Source of the rows of a table.

    An image with a path or address is named by it, any other item `table.csv:7`, counted from 1.

    A value may be a path, an address, the bytes of a file, or the form that `datasets` writes: {"bytes": …, "path": …}.

    Args:
        location: path or address of a .csv, .tsv (UTF-8 with a header line), .parquet or .pq file.
        texts: whether the column contains texts.
        column: its name; by default the first with a usual name.
        folder: base of relative paths; by default the folder of the table.
        id_column: column of unique ids, text or whole numbers, that become the names of the items.
    """

    def __init__(
        self,
        location: str,
        *,
        texts: bool,
        column: str | None,
        folder: str | None,
        id_column: str | None = None,
    ) -> None:
        self.name, self._texts, self._folder = location, texts, folder
        self._reader = TableReader(location, wanted=(column,) if column else _usual_columns(texts))
        self._column = self._choose_column(column)
        self._id_column = None if id_column is None else self._reader.check_column(id_column)
        column_type = self._reader.types.get(self._column, "string")
        self.is_bulky = column_type not in ("string", "large_string", "string_view")

    def count(self) -> int | None:
        """Return the number of rows of a Parquet file; unknown for CSV before it is read."""
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
                found = self._item(name, self._check_type(row.values[0]))
                yield found if len(row.values) == 1 else self._with_id(found, row, ids)
        if not number:
            yield Failure(self.name, f"{self.name}: the table has a header but no rows", hides_others=True)

    def _with_id(self, found: Found, row: TableRow, ids: dict[str, int]) -> Found:
        """Name an item by its id; a repeated id is a failure."""
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
            return Failure(
                name, f"{name}: its id {item.name!r} is also that of row {first}; ids must be unique"
            )
        return item

    def _item(self, row: str, value: Any) -> Found:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is not None and not isinstance(value, (str, bytes)):
            return Failure(
                row, f"{row}: its column {self._column!r} contains {type(value).__name__}; expected a path"
            )
        if not value or (isinstance(value, str) and not value.strip()):
            return Failure(row, f"{row}: its column {self._column!r} is empty")
        if isinstance(value, bytes):
            return Item(row, partial(bytes, value))
        if self._texts:
            return Item(row, str(value).encode)
        if len(value) > MAX_PATH_CHARS:
            return Failure(
                row,
                f"{row}: its column {self._column!r} has {len(value):,} characters ({value[:20]}…), too long for a "
                "path or address; store images as bytes in Parquet, not as base64",
            )
        return file_item(resolve_listed_path(self.name, value.strip(), self._folder))

    def _check_type(self, value: Any) -> Any:
        if value is None or isinstance(value, (str, dict) if self._texts else (str, bytes, dict)):
            return value
        raise DataError(
            f"the column {self._column!r} of {self.name} contains {type(value).__name__}; "
            f"expected {'texts' if self._texts else 'paths, addresses or bytes'}. Choose another with --column"
        )

    def _choose_column(self, column: str | None) -> str:
        if column is not None:
            return self._reader.check_column(column)
        lowered = {name.lower(): name for name in reversed(self._reader.names)}
        for usual in _usual_columns(self._texts):
            if usual in lowered:
                return self._reader.check_column(lowered[usual])
        what = "texts" if self._texts else "images"
        has = f"it has {', '.join(map(repr, self._reader.names)) or 'none'}"
        raise DataError(f"{self.name}: which column contains the {what}? Choose it with --column NAME; {has}")


def _usual_columns(texts: bool) -> tuple[str, ...]:
    return TEXT_COLUMNS if texts else IMAGE_COLUMNS
