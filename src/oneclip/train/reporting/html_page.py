"""HTML report of a run as one self-contained page: sections, tables, images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from oneclip.html import data_address, html_table
from oneclip.html import render_page as render_html

STYLE = (
    "body { max-width: 60em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid var(--line) }"
)


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        title: plain text.
        body: HTML, made with `html_table`, `html_image` and `html_paragraph`.
    """

    title: str
    body: str


def render_page(title: str, sections: Iterable[Section]) -> str:
    """Render the whole page.

    Args:
        title: plain text.
        sections: in order.
    """
    parts = "".join(f"<h2>{escape(part.title)}</h2>\n{part.body}\n" for part in sections)
    return render_html(title, f"<h1>{escape(title)}</h1>\n{parts}", STYLE)


def html_paragraph(text: str) -> str:
    """Format plain text as an HTML paragraph."""
    return f"<p>{escape(text)}</p>"


def html_image(png: bytes, alt: str) -> str:
    """Embed a PNG image into the page.

    Args:
        png: content of the PNG file.
        alt: text for readers who cannot see the image.
    """
    return f'<img alt="{escape(alt)}" src="{data_address(png, "image/png")}">'


def settings_section(toml: str) -> Section:
    """Show the settings of a run as its TOML file has them."""
    return Section("Settings", f"<pre>{escape(toml)}</pre>")


def curves_section(plots: Mapping[str, bytes]) -> Section:
    """Show the curves of a run.

    Args:
        plots: PNG content by name.
    """
    images = [f"<p>{html_image(png, name.replace('_', ' '))}</p>" for name, png in plots.items()]
    return Section("Curves", "\n".join(images))


def environment_section(environment: Mapping[str, Any]) -> Section:
    """Show the environment of a run."""
    rows = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        rows.append((name, str(value)))
    return Section("Environment", html_table(rows))
