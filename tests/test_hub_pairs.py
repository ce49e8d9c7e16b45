"""Tables of image-caption pairs: accepted and rejected forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneclip.errors import DataError
from oneclip.hub.pairs import read_pairs

ROWS = [("a.png", "a cat"), ("b.png", 'a "dog", asleep'), ("ü.png", "ein Bär; zwei")]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("given", [False, True])
def test_csv_with_any_usual_separator(tmp_path: Path, separator: str, given: bool) -> None:
    import csv

    path = tmp_path / "pairs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(
            [("id", "filepath", "caption"), *((1, *row) for row in ROWS)]
        )
    pairs = read_pairs(path, separator=separator if given else None)
    assert list(zip(pairs.images, pairs.captions, strict=True)) == ROWS


def test_the_separator_found_is_the_one_that_gives_both_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("filepath\tcaption\ta,b,c,d,e\nx.png\thello\t1\n")
    assert read_pairs(path).captions == ["hello"]


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"\xef\xbb\xbffilepath,caption\r\na.png,hello\r\n\r\n")
    assert read_pairs(path).images == ["a.png"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    path = tmp_path / "pairs.parquet"
    table = pyarrow.table({"url": ["a.png", None], "alt": ["a cat", "lost"], "n": [1, 2]})
    parquet.write_table(table, path)
    pairs = read_pairs(path, image_column="url", caption_column="alt")
    assert (pairs.images, pairs.captions) == (["a.png"], ["a cat"])
    assert pairs.incomplete == [(2, "url")]
    with pytest.raises(DataError, match=r"no column 'filepath'.*'url', 'alt', 'n'"):
        read_pairs(path)
    with pytest.raises(DataError, match=r"row 1 .* has 1 \(int\) as 'n'; expected text"):
        read_pairs(path, image_column="url", caption_column="n")


def test_incomplete_rows_are_left_out_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("filepath,caption\na.png,hello\n,alone\n\nb.png,\nc.png,  \n")
    pairs = read_pairs(path)
    assert pairs.images == ["a.png"]
    assert pairs.incomplete == [(2, "filepath"), (3, "caption"), (4, "caption")]


def test_a_missing_column_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("filepath,captions\na.png,hello\n")
    with pytest.raises(DataError, match=r"no column 'caption'; did you mean 'captions'\? it has"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.png,"a cat\nb.png,a dog\nc.png,a cow\n', r"row that starts at line 2 a quote .* never closed"),
        ('a.png,a cat\nb.png,"a\ndog\nc.png,"two, cows"\n', r"starts at line 3 text follows .* in line 5"),
        ("a.png,a cat\nb.png,a cat, grey\n", r"line 3 of .*pairs\.csv has 3 fields and its header has 2"),
        ('a.png,"a\ncat"\n\nb.png\n', r"line 5 of .*pairs\.csv has 1 field and its header has 2"),
    ],
)
def test_a_row_that_is_not_as_the_header_says_is_an_error_with_its_line(
    tmp_path: Path, rows: str, message: str
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("filepath,caption\n" + rows)
    with pytest.raises(DataError, match=message):
        read_pairs(path)


def test_a_caption_of_200000_characters_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("filepath,caption\na.png," + "word " * 40_000 + "end\n")
    assert len(read_pairs(path).captions[0]) == 200_003  # csv.field_size_limit() is 131,072 by default


def test_a_tsv_is_quoted_as_pandas_writes_it(tmp_path: Path) -> None:
    import csv

    rows = [("a.png", 'says "hello"'), ("b.png", '"quoted"'), ("c.png", "two\tparts\nand a line")]
    path = tmp_path / "pairs.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, csv.excel_tab).writerows([("filepath", "caption"), *rows])
    pairs = read_pairs(path)
    assert list(zip(pairs.images, pairs.captions, strict=True)) == rows


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("filepath,caption,caption\na.png,one,two\n")
    with pytest.raises(DataError, match="has 2 columns 'caption'"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a header"),
        (b"filepath,caption\n", "has no rows"),
        (b"filepath,caption\n,\n", "has 1 rows, none with both"),
        (b"filepath,caption\na.png,\xff\xfe\n", "not a CSV file in UTF-8"),
    ],
)
def test_a_table_without_pairs_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pairs(path)


def test_a_missing_file_a_folder_and_an_unknown_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_pairs(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"'\.xlsx'; expected a table with one of \.csv"):
        read_pairs(tmp_path / "pairs.xlsx")


def test_damaged_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="damaged or not a Parquet"):
        read_pairs(tmp_path / "pairs.parquet")


def test_the_checksum_follows_content_and_order(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    sums = set()
    for rows in ("a,1\nb,2\n", "b,2\na,1\n", "a,1\nb,3\n"):
        path.write_text("filepath,caption\n" + rows)
        sums.add(read_pairs(path).checksum)
    assert len(sums) == 3
