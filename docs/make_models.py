"""Write the list of architectures into docs/models.md, from the data of `oneclip.zoo`.

python docs/make_models.py
"""

from collections.abc import Iterator
from pathlib import Path

from oneclip import zoo

PAGE = Path(__file__).resolve().with_name("models.md")
BEGIN, END = "<!-- architectures: begin, written by docs/make_models.py -->\n", "<!-- architectures: end -->"


def tables() -> str:
    """Return the number of models, and one table per family."""
    names = zoo.architectures()
    weights = sum(len(zoo.pretrained_tags(name)) for name in names)
    kinds = [zoo.kind(name) for name in names]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("native", "timm", "hf", "coca"))
    lines = [f"{len(names)} architectures ({counts}), {weights} trained weights.\n"]
    for family in zoo.FAMILIES:
        members = sorted((n for n in names if zoo.family(n) == family.name), key=_order)
        lines += [
            f"\n### {family.name}\n",
            f"\n{family.description[0].upper()}{family.description[1:]}.\n",
            "\n",
            *_table(members),
        ]
    return "".join(lines)


def _order(name: str) -> tuple[int, str]:
    """Sort by size, then by name."""
    return zoo.parameters(name).total, name


def _table(names: list[str]) -> Iterator[str]:
    yield "| architecture | parameters | image tower | pixels | embedding | tokens | towers | weights |\n"
    yield "|---|--:|--:|--:|--:|--:|---|---|\n"
    for name in names:
        cfg, count = zoo.architecture(name), zoo.parameters(name)
        size = cfg.vision_cfg.image_size
        pixels = size if isinstance(size, int) else "x".join(map(str, size))
        tags = ", ".join(f"`{tag}`" for tag in zoo.pretrained_tags(name)) or "none"
        towers = zoo.kind(name)
        others = [extra for extra in zoo.extras(name) if extra != towers]
        yield (
            f"| `{name}` | {count.total / 1e6:,.1f} M | {count.image / 1e6:,.1f} M | {pixels} | {cfg.embed_dim} "
            f"| {cfg.text_cfg.context_length} | {', '.join([towers, *others])} | {tags} |\n"
        )


def with_tables(page: str) -> str:
    """Return the page with new tables."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
