"""Thumbnails in terminals that show images: the protocols of kitty and of iTerm2."""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from oneclip.cli.exits import escape_control_characters

if TYPE_CHECKING:
    from PIL import Image

ROWS, CELLS = 4, 8  # of a thumbnail; a cell is about twice as high as it is wide
PIXELS = 160  # of its sides
CHUNK = 4096  # characters in one command of kitty


class Protocol(Enum):
    """How a terminal receives an image."""

    KITTY = "kitty"
    ITERM2 = "iterm2"


def terminal_protocol() -> Protocol | None:
    """Return the protocol of the terminal behind stdout, by its environment variables; None if it has none."""
    if not sys.stdout.isatty() or "TMUX" in os.environ or "STY" in os.environ:  # these two drop images
        return None
    term, program = os.environ.get("TERM", ""), os.environ.get("TERM_PROGRAM", "")
    if term in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in os.environ or program == "ghostty":
        return Protocol.KITTY
    if program in ("iTerm.app", "WezTerm", "mintty") or os.environ.get("LC_TERMINAL") == "iTerm2":
        return Protocol.ITERM2
    return None


def print_with_thumbnails(rows: Iterable[tuple[str, Sequence[str]]], protocol: Protocol) -> None:
    """Print images on stdout, each with lines of text beside it.

    Args:
        rows: path of the image, and at most `ROWS` lines of text.
        protocol: of the terminal.
    """
    from rich.cells import set_cell_size

    from oneclip.image.thumbnail import make_thumbnail

    width = max(10, shutil.get_terminal_size().columns - CELLS - 3)
    for path, texts in rows:
        image = make_thumbnail(path, PIXELS)
        # make room first: the terminal may scroll, and then the saved position would be wrong
        sys.stdout.write("\n" * ROWS + f"\x1b[{ROWS}A\x1b7")
        if image is not None:
            sys.stdout.write(encode_thumbnail(image, protocol))
        sys.stdout.write("\x1b8")
        lines = [escape_control_characters(text).replace("\n", "\\n") for text in texts]
        for line in [*lines, *[""] * (ROWS - len(lines))]:
            sys.stdout.write(f"\x1b[{CELLS + 2}C{set_cell_size(line, width).rstrip()}\n")
        sys.stdout.write("\n")


def encode_thumbnail(image: Image.Image, protocol: Protocol) -> str:
    """Return the control sequence that shows an image in `ROWS` rows and `CELLS` columns at the cursor.

    Args:
        image: (H, W) RGB.
        protocol: of the terminal.
    """
    from PIL import Image

    square = Image.new("RGBA", (PIXELS, PIXELS))  # transparent, because kitty stretches an image to its cells
    square.paste(image, ((PIXELS - image.width) // 2, (PIXELS - image.height) // 2))
    content = io.BytesIO()
    square.save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode("ascii")
    if protocol is Protocol.ITERM2:
        return (
            f"\x1b]1337;File=inline=1;width={CELLS};height={ROWS};size={len(content.getvalue())}:{data}\x07"
        )
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    commands = []
    for i, chunk in enumerate(chunks):
        first = f"a=T,f=100,c={CELLS},r={ROWS},C=1,q=2," if i == 0 else ""
        commands.append(f"\x1b_G{first}m={int(i < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(commands)
