"""Draw the images of this folder: eight simple drawings, 256 x 256 pixels.

    python examples/make_images.py [FOLDER]

Each is drawn four times as large and scaled down, so that its edges are smooth. Coordinates go from 0 to 100,
right and down.
"""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 256  # pixels of the result
SCALE = SIZE * 4 / 100  # drawn pixels in one unit

Point = tuple[float, float]


class Canvas:
    """A white square to draw on, with a few shapes in units of a hundredth of its side."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SIZE * 4, SIZE * 4), "white")
        self._draw = ImageDraw.Draw(self.image)

    def shape(self, points: Sequence[Point], color: str) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=color)

    def line(self, points: Sequence[Point], color: str, width: float) -> None:
        """A line with round joints and ends."""
        self._draw.line(
            [(x * SCALE, y * SCALE) for x, y in points], fill=color, width=round(width * SCALE), joint="curve"
        )
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: str) -> None:
        """A filled ellipse around (x, y)."""
        self._draw.ellipse(self._box(x, y, rx, ry), fill=color)

    def pie(self, x: float, y: float, rx: float, ry: float, start: float, end: float, color: str) -> None:
        """A slice of an ellipse, between two angles in degrees, clockwise from the right."""
        self._draw.pieslice(self._box(x, y, rx, ry), start, end, fill=color)

    def arc(self, x: float, y: float, r: float, start: float, end: float, color: str, width: float) -> None:
        """A piece of a circle's line, between two angles in degrees, clockwise from the right."""
        steps = [math.radians(start + (end - start) * i / 40) for i in range(41)]
        self.line([(x + r * math.cos(a), y + r * math.sin(a)) for a in steps], color, width)

    def box(
        self, left: float, top: float, right: float, bottom: float, color: str, radius: float = 0
    ) -> None:
        """A filled rectangle, its corners rounded."""
        corners = [left * SCALE, top * SCALE, right * SCALE, bottom * SCALE]
        self._draw.rounded_rectangle(corners, radius=radius * SCALE, fill=color)

    def _box(self, x: float, y: float, rx: float, ry: float) -> list[float]:
        return [(x - rx) * SCALE, (y - ry) * SCALE, (x + rx) * SCALE, (y + ry) * SCALE]


def apple(c: Canvas) -> None:
    red = "#dd2e44"
    c.ellipse(36, 58, 24, 26, red)
    c.ellipse(64, 58, 24, 26, red)
    c.ellipse(42, 74, 18, 18, red)
    c.ellipse(58, 74, 18, 18, red)
    c.box(38, 40, 62, 88, red, 8)
    c.ellipse(50, 34, 9, 5, "white")
    c.line([(50, 38), (51, 26), (56, 14)], "#66421c", 5)
    c.shape([(55, 27), (61, 15), (73, 11), (85, 13), (80, 23), (69, 29)], "#5c913b")
    c.ellipse(29, 50, 5, 8, "#f4707f")


def car(c: Canvas) -> None:
    c.shape([(22, 48), (34, 27), (66, 27), (81, 48)], "#dd2e44")
    c.box(6, 46, 94, 70, "#dd2e44", 8)
    c.shape([(29, 46), (37, 32), (49, 32), (49, 46)], "#bbddf5")
    c.shape([(53, 46), (53, 32), (64, 32), (73, 46)], "#bbddf5")
    c.ellipse(90, 54, 3, 4, "#ffcc4d")
    c.box(6, 62, 94, 66, "#a0041e")
    for x in (27, 73):
        c.ellipse(x, 70, 12, 12, "#292f33")
        c.ellipse(x, 70, 5.5, 5.5, "#ccd6dd")


def cat(c: Canvas) -> None:
    fur, dark = "#ffac33", "#292f33"
    c.shape([(14, 8), (46, 30), (16, 54)], fur)
    c.shape([(86, 8), (54, 30), (84, 54)], fur)
    c.shape([(20, 19), (37, 31), (22, 42)], "#f7b4a5")
    c.shape([(80, 19), (63, 31), (78, 42)], "#f7b4a5")
    c.ellipse(50, 57, 38, 34, fur)
    for x in (40, 50, 60):
        c.line([(x, 26), (x, 35)], "#c1694f", 4)
    for x in (35, 65):
        c.ellipse(x, 51, 5.5, 7.5, dark)
        c.ellipse(x + 1.5, 48, 1.8, 2.2, "white")
    c.ellipse(43, 71, 9.5, 8, "#ffe8b6")
    c.ellipse(57, 71, 9.5, 8, "#ffe8b6")
    c.shape([(44, 62), (56, 62), (50, 69)], "#e75a70")
    c.arc(45, 70, 5, 0, 150, dark, 1.8)
    c.arc(55, 70, 5, 30, 180, dark, 1.8)
    for side in (-1, 1):
        for tilt in (-5, 0, 5):
            c.line([(50 + side * 20, 69 + tilt / 2), (50 + side * 45, 68 + tilt * 1.7)], dark, 1.4)


def fish(c: Canvas) -> None:
    c.shape([(66, 50), (95, 26), (89, 50), (95, 74)], "#3b88c3")
    c.shape([(34, 30), (50, 13), (64, 34)], "#3b88c3")
    c.shape([(40, 70), (52, 85), (60, 66)], "#3b88c3")
    c.ellipse(42, 50, 37, 25, "#55acee")
    c.pie(42, 50, 37, 25, 20, 160, "#88c9f9")
    c.shape([(45, 46), (62, 55), (46, 60)], "#3b88c3")
    c.ellipse(22, 44, 6, 6, "white")
    c.ellipse(21, 44, 3.2, 3.2, "#292f33")
    c.arc(8, 52, 8, 10, 70, "#226699", 2)


def flower(c: Canvas) -> None:
    c.line([(50, 45), (52, 70), (50, 96)], "#3e721d", 5)
    c.shape([(51, 84), (60, 70), (78, 66), (90, 71), (76, 83), (62, 87)], "#5c913b")
    c.shape([(51, 90), (42, 76), (25, 72), (12, 77), (26, 89), (40, 93)], "#5c913b")
    for turn in range(6):
        a = math.radians(60 * turn + 30)
        c.ellipse(50 + 20 * math.cos(a), 34 + 20 * math.sin(a), 13, 13, "#ea596e")
    for turn in range(6):
        a = math.radians(60 * turn + 30)
        c.ellipse(50 + 16 * math.cos(a), 34 + 16 * math.sin(a), 8, 8, "#f4abba")
    c.ellipse(50, 34, 11, 11, "#ffcc4d")


def house(c: Canvas) -> None:
    c.box(66, 12, 76, 36, "#a0041e")
    c.box(16, 46, 84, 92, "#ffd983")
    c.shape([(4, 50), (50, 8), (96, 50)], "#be1931")
    c.box(42, 62, 60, 92, "#66421c", 1)
    c.ellipse(56, 78, 1.8, 1.8, "#ffcc4d")
    for left in (21, 66):
        c.box(left, 58, left + 14, 74, "#3b94d9", 1)
        c.box(left + 6.2, 58, left + 7.8, 74, "white")
        c.box(left, 65.2, left + 14, 66.8, "white")
    c.ellipse(50, 34, 6, 6, "#bbddf5")


def sun(c: Canvas) -> None:
    for turn in range(8):
        a = turn * math.pi / 4
        across = (-math.sin(a), math.cos(a))
        tip = (50 + 47 * math.cos(a), 50 + 47 * math.sin(a))
        foot = (50 + 31 * math.cos(a), 50 + 31 * math.sin(a))
        base = [(foot[0] + s * 8 * across[0], foot[1] + s * 8 * across[1]) for s in (-1, 1)]
        c.shape([tip, *base], "#ffac33")
    c.ellipse(50, 50, 26, 26, "#ffcc4d")


def tree(c: Canvas) -> None:
    c.shape([(43, 60), (57, 60), (61, 95), (39, 95)], "#8a4b2b")
    c.line([(50, 72), (64, 58)], "#8a4b2b", 5)
    for x, y, r in ((50, 27, 23), (29, 42, 20), (71, 42, 20), (40, 56, 16), (60, 56, 16)):
        c.ellipse(x, y, r, r, "#5c913b")
    for x, y, r in ((46, 24, 12), (29, 40, 9), (67, 42, 9)):
        c.ellipse(x, y, r, r, "#77b255")


DRAWINGS: tuple[Callable[[Canvas], None], ...] = (apple, car, cat, fish, flower, house, sun, tree)


def main(folder: Path) -> None:
    """Draw all of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in DRAWINGS:
        canvas = Canvas()
        draw(canvas)
        canvas.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(
            folder / f"{draw.__name__}.png", optimize=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
