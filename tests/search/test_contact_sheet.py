"""The page of a search: thumbnails, captions, links, and that it needs nothing from outside."""

import base64
import io
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image
from tiny import picture

from oneclip.errors import OutputError
from oneclip.image.thumbnail import make_thumbnail
from oneclip.search.contact_sheet import write_contact_sheet
from oneclip.search.results import Hit, SearchResults

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page: its elements in order, its text, and that all elements are closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def thumbnails(self) -> list[Image.Image]:
        found = []
        for image in self.all("img"):
            start, _, data = image["src"].partition(",")
            assert start == "data:image/jpeg;base64"
            found.append(Image.open(io.BytesIO(base64.b64decode(data))))
        return found


def hit(path: Path, **changes: object) -> Hit:
    values = {"relevance": 0.5, "width": 40, "height": 36, "format": "png", "taken_at": None, "camera": None}
    return Hit(
        **{
            "path": str(path),
            "score": 0.3,
            "latitude": None,
            "longitude": None,
            "sha256": "0" * 64,
            **values,
            **changes,
        }
    )


def write(folder: Path, *hits: Hit, title: str = "a cat", **counts: int) -> Page:
    write_contact_sheet(folder / "page.html", SearchResults(list(hits), "/i", "tiny", **counts), title)
    return Page(folder / "page.html")


def test_every_hit_has_a_thumbnail_its_facts_and_a_link(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    page = write(
        tmp_path,
        hit(paths[0], relevance=0.987, taken_at="2023-05-01T12:30:00+02:00", camera="Google Pixel 7"),
        hit(paths[1], relevance=None, score=-0.25),
    )
    assert [image.size for image in page.thumbnails()] == [(40, 36)] * 2
    for words in ("99 % relevant", "2023-05-01 12:30", "Google Pixel 7", "a.png", "score -0.250", "a cat"):
        assert words in page.words
    assert [link["href"] for link in page.all("a")] == ["./a.png", "./b.png"]
    assert [image["alt"] for image in page.all("img")] == ["a.png", "b.png"]


def test_nothing_is_loaded_from_elsewhere_and_no_script_runs(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    page = write(tmp_path, hit(tmp_path / "a.png"))
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "p", "main", "ol", "li"),
        *("a", "img", "div", "footer"),
    }
    assert "default-src 'none'" in str(page.all("meta"))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import", text)


def test_names_and_words_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / '<script>alert(1)</script> & "co".png'.replace("/", "_")
    picture().save(path)
    page = write(tmp_path, hit(path, camera="<b>"), title="<i>cats</i> & dogs")
    assert not page.all("script")
    assert not page.all("b")
    assert not page.all("i")
    assert path.name in page.words
    assert "<i>cats</i> & dogs" in page.words
    (link,) = page.all("a")
    assert unquote(link["href"]) == f"./{path.name}"


def test_a_file_outside_the_folder_of_the_page_has_an_absolute_link(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    path = tmp_path / "a b.png"
    picture().save(path)
    (link,) = write(tmp_path / "pages", hit(path)).all("a")
    assert urlsplit(link["href"]).scheme == "file"
    assert link["href"] == path.as_uri()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_linked_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    picture().save(path)
    page = write(tmp_path, hit(path))
    assert page.all("a")[0]["href"] == "./caf%E9.png"
    assert "caf\\udce9.png" in page.words


def test_a_missing_file_has_a_placeholder(tmp_path: Path) -> None:
    results = SearchResults([hit(tmp_path / "gone.png")], "/i", "tiny")
    assert write_contact_sheet(tmp_path / "page.html", results, "a cat") == 1
    page = Page(tmp_path / "page.html")
    assert not page.all("img")
    assert not page.all("a")
    assert "not found or not readable" in page.words
    assert "gone.png" in page.words


def test_what_was_left_out_is_counted(tmp_path: Path) -> None:
    page = write(tmp_path, hidden=3, repeated=2)
    assert "0 images, 3 hidden: too little relevance, 2 left out: like a better one" in page.words


def test_a_thumbnail_is_upright_and_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    wide = Image.new("RGB", (1200, 600), "blue")
    wide.paste("red", (0, 0, 600, 600))
    wide.save(tmp_path / "a.jpg", exif=exif)
    thumbnail = make_thumbnail(str(tmp_path / "a.jpg"))
    assert thumbnail is not None
    assert thumbnail.size == (128, 256)
    red, _, blue = thumbnail.getpixel((64, 20))  # type: ignore[misc]
    assert red > 200 > 50 > blue


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1"])
def test_an_image_of_any_mode_becomes_rgb_on_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).convert(mode).save(path)
    thumbnail = make_thumbnail(str(path))
    assert thumbnail is not None
    assert (thumbnail.mode, thumbnail.size) == ("RGB", (20, 10))
    if mode in ("RGBA", "LA"):
        assert thumbnail.getpixel((5, 5)) == (255, 255, 255)


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"page\.html"):
        write_contact_sheet(tmp_path / "no" / "page.html", SearchResults([], "/i", "tiny"), "a cat")
