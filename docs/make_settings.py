"""Write the table of a training's settings into docs/cli.md, from the dataclasses that define them.

python docs/make_settings.py
"""

from itertools import groupby
from pathlib import Path

from oneclip.cli.from_settings import option
from oneclip.train.flat import Setting, settings_of
from oneclip.train.settings import RunCfg

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- settings: begin, written by docs/make_settings.py -->\n", "<!-- settings: end -->"


def row(setting: Setting) -> str:
    """A line of the table."""
    unit = "" if setting.kind is bool else f" {setting.unit}".replace("|", "\\|")
    names = [f"`{option(setting.name)}{unit}`", *(f"`{name}`" for name in setting.short)]
    if setting.kind is bool and setting.default:
        names.append(f"`--no-{option(setting.name)[2:]}`")
    return f"| {', '.join(names)} | {setting.explained.replace('|', chr(92) + '|')} |\n"


def table() -> str:
    """All settings, each group under a line of its own."""
    lines = ["| option | meaning |\n|---|---|\n"]
    for group, members in groupby(settings_of(RunCfg), key=lambda setting: setting.group):
        lines += [f"| **{group}** | |\n", *map(row, members)]
    return "".join(lines)


def with_table(page: str) -> str:
    """The text of the page with the table brought up to date."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    path = ROOT / "docs" / "cli.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
