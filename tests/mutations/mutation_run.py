"""Change files of every format, read them, and print the outcome of each change as a line of JSON.

python tests/mutations/mutation_run.py --full              800 changes of each format
python tests/mutations/mutation_run.py --count 20          fewer; --only NAME for one format
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path

if (
    __name__ == "__main__"
):  # before torch is imported; only as a program, to keep the environment of importers
    os.environ |= {"ONECLIP_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
TESTS = Path(__file__).parents[1]
sys.path[:0] = [
    str(folder) for folder in (Path(__file__).parent, TESTS, TESTS / "text", TESTS / "checkpoint")
]

from torchvision_stub import declare_operators  # noqa: E402

declare_operators()

import hostile_cases  # noqa: E402
import mutated_checkpoints  # noqa: E402
import mutated_data  # noqa: E402
import sandbox  # noqa: E402
import torch  # noqa: E402
from mutate import mutated  # noqa: E402
from mutated_checkpoints import Format  # noqa: E402

from oneclip import checkpoint  # noqa: E402

FULL = 800
IMPORTED = (  # imported once, before processes start
    *("oneclip.embed.store", "oneclip.embed.sources", "oneclip.embed.cache", "oneclip.hub.pairs"),
    *(
        "oneclip.train.data.open_dataset",
        "oneclip.train.checkpointing.dcp",
        "oneclip.config.run",
        "oneclip.evaluate.data",
    ),
    *(
        "pyarrow.parquet",
        "pyarrow.ipc",
        "transformers.models.bert.modeling_bert",
        "transformers.models.mt5.modeling_mt5",
    ),
    *("torch.distributed.checkpoint", "oneclip.checkpoint.readers.dcp", "ftfy"),
)


def formats() -> dict[str, Format]:
    return {**dict(mutated_checkpoints.formats()), **dict(mutated_data.formats())}


def cases(name: str, form: Format, sound: Path, numbers: range) -> Iterator[sandbox.Case]:
    """Make the cases of a format, one for each change."""
    for number in numbers:
        yield f"{name} {number}", partial(_attempt, name, form, sound, number)


def _attempt(name: str, form: Format, sound: Path, number: int) -> None:
    folder = sound.with_name(f"{sound.name}-{number}")
    shutil.copytree(sound, folder)
    try:
        if number:
            chance = random.Random(zlib.crc32(name.encode()) + number)
            files = sorted(
                {path for pattern in form.files for path in folder.glob(pattern) if path.is_file()}
            )
            path = chance.choice(files)
            path.write_bytes(mutated(path.read_bytes(), chance))
        form.read(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def outcomes(name: str, form: Format, numbers: range) -> Iterator[sandbox.Outcome]:
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CACHE_HOME"] = os.environ["ONECLIP_CACHE"] = str(Path(root, "cache"))
        sound = Path(root, "sound")
        sound.mkdir()
        [made] = sandbox.run([(f"{name}: writing", lambda: form.write(sound))])
        if made.kinds or made.ended:
            yield made
            return
        unchanged = partial(_attempt, name, form, sound, 0)
        changes = cases(name, form, sound, numbers)
        yield from sandbox.run([(f"{name} unchanged", unchanged), *changes], unchanged)


def hostile(step: int) -> Iterator[sandbox.Outcome]:
    with tempfile.TemporaryDirectory() as root:
        here = os.getcwd()
        os.chdir(root)
        yield from sandbox.run(
            list(hostile_cases.cases(Path(root), step)), partial(checkpoint.load, "pocket", device="cpu")
        )
        os.chdir(here)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument(
        "--full", action="store_const", const=FULL, dest="count", help=f"{FULL} changes of each form"
    )
    words.add_argument("--count", type=int, default=20, help="number of the last change of each form")
    words.add_argument("--first", type=int, default=1, help="number of the first change, to go on from there")
    words.add_argument(
        "--hostile",
        type=int,
        nargs="?",
        const=1,
        metavar="N",
        help="the forged files of tests/checkpoint, too, or every N-th of them",
    )
    words.add_argument(
        "--only", action="append", default=[], help="forms with this in their name; several times"
    )
    words.add_argument("--summary", action="store_true", help="a line a form, and the faults")
    asked = words.parse_args()
    torch.set_num_threads(1)
    for module in IMPORTED:
        import_module(module)
    if asked.hostile:
        for outcome in hostile(asked.hostile):
            print(json.dumps(asdict(outcome)), flush=True)
    for name, form in formats().items():
        if asked.only and not any(part in name for part in asked.only):
            continue
        found = []
        for outcome in outcomes(name, form, range(asked.first, asked.count + 1)):
            found.append(outcome)
            if not asked.summary:
                print(json.dumps(asdict(outcome)), flush=True)
            elif outcome.fault or (outcome.name.endswith(" unchanged") and outcome.kinds):
                print(f"   {outcome.name}: {outcome.fault or outcome.message}", flush=True)
        if asked.summary:
            errors = sum(bool(outcome.kinds) for outcome in found)
            print(
                f"{name}: {len(found) - errors} results, {errors} errors, "
                f"{sum(bool(outcome.fault) for outcome in found)} faults, "
                f"{sum(o.seconds for o in found):.1f} s, slowest {max(o.seconds for o in found):.2f} s, "
                f"largest {max(o.memory for o in found) / 1e6:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
