"""Write the tables of settings in docs/cli.md, from the dataclasses that define them.

python docs/make_settings.py
"""

from itertools import groupby
from pathlib import Path

from oneclip.cli.settings_options import option_name
from oneclip.config.base import BaseCfg
from oneclip.config.finetune import FinetuneCfg
from oneclip.config.run import RunCfg
from oneclip.config.schema import Setting, settings_of

ROOT = Path(__file__).resolve().parents[1]
TABLES: dict[str, type[BaseCfg]] = {"finetune": FinetuneCfg, "settings": RunCfg}
ARGUMENTS = ("model", "data")  # of `oneclip finetune`; they are not options


def row(setting: Setting) -> str:
    """Return a line of the table."""
    unit = "" if setting.kind is bool else f" {setting.unit}".replace("|", "\\|")
    names = [f"`{option_name(setting.name)}{unit}`", *(f"`{name}`" for name in setting.aliases)]
    if setting.kind is bool and setting.default:
        names.append(f"`--no-{option_name(setting.name)[2:]}`")
    return f"| {', '.join(names)} | {setting.full_help.replace('|', chr(92) + '|')} |\n"


def table(kind: type[BaseCfg]) -> str:
    """Return a table of all settings, by group."""
    left_out = ARGUMENTS if kind is FinetuneCfg else ()
    shown = [setting for setting in settings_of(kind) if setting.name not in left_out]
    lines = ["| option | meaning |\n|---|---|\n"]
    for group, members in groupby(shown, key=lambda setting: setting.group):
        lines += [f"| **{group}** | |\n", *map(row, members)]
    return "".join(lines)


def with_table(page: str) -> str:
    """Return the text of the page with current tables."""
    for name, kind in TABLES.items():
        begin, end = (
            f"<!-- {name}: begin, written by docs/make_settings.py -->\n",
            f"<!-- {name}: end -->",
        )
        before, rest = page.split(begin)
        page = before + begin + table(kind) + end + rest.split(end, 1)[1]
    return page


if __name__ == "__main__":
    path = ROOT / "docs" / "cli.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
