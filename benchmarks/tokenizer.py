"""How fast are texts tokenized, compared with open_clip_torch 3.3.0, cleaning included?

    python benchmarks/tokenizer.py [--packages FOLDER] [--captions 20000] [--rounds 7]

Both tokenizers get the same texts in turn, each in its own process. Every round has 20,000 new texts, so ours sees each
once; the contender is timed twice on them, and its better time counts. Its word cache is warm after the first texts,
because it never drops a word. The ids are compared too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import pickle
import random
import statistics
import subprocess
import sys
import time
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_LITTLE = "a the of in on with and to at for by from two is are near his her over some next while this"
LITTLE_WORDS = _LITTLE.split()
DECORATED = (  # decorations of words as format strings, and their frequency per thousand words
    ("{},", 45),
    ("{}.", 15),
    ("{}!", 5),
    ("{}'s", 12),
    ("{}-made", 8),
    ("({})", 4),
    ('"{}"', 4),
    ("#{}", 3),
    ("{} & co", 2),
    ("{} &amp; more", 2),
    ("“{}”", 3),
    ("{}…", 2),
    ("{} – new", 3),
    ("{}™", 1),
    ("café {}", 1),
    ("{}\N{SPARKLES}", 1),
    ("1920s {}", 3),
    ("24 {}s", 4),
)


class Captions:
    """Make texts without repetition, whose word frequencies follow Zipf's law."""

    def __init__(self, words: list[str], seed: int = 0) -> None:
        self.random, self.seen = random.Random(seed), set[str]()
        self.words = words
        self.weights = list(accumulate(1 / (place + 3) for place in range(len(words))))
        self.forms = ["{}", *(form for form, _ in DECORATED)]
        self.form_weights = [1000 - sum(share for _, share in DECORATED), *(share for _, share in DECORATED)]

    def batch(self, count: int) -> list[str]:
        captions: list[str] = []
        while len(captions) < count:
            caption = self._one()
            if caption not in self.seen:
                self.seen.add(caption)
                captions.append(caption)
        return captions

    def _one(self) -> str:
        content = self.random.choices(self.words, cum_weights=self.weights, k=self.random.randint(4, 10))
        forms = self.random.choices(self.forms, self.form_weights, k=len(content))
        words = []
        for word, form in zip(content, forms, strict=True):
            if self.random.random() < 0.45:
                words.append(self.random.choice(LITTLE_WORDS))
            words.append(form.format(word.capitalize() if self.random.random() < 0.08 else word))
        caption = " ".join(words)
        return caption[0].upper() + caption[1:] + self.random.choice(("", "", ".", ".", "\n"))


def measure(tokenizer: Any, captions: list[str]) -> tuple[float, str]:
    """Return the seconds for the texts, and a digest of the ids."""
    start = time.perf_counter()
    ids = tokenizer(captions)
    seconds = time.perf_counter() - start
    return seconds, hashlib.sha256(ids.numpy().tobytes()).hexdigest()


def contend(packages: str) -> None:
    """Answer batches on stdin with times on stdout, with the published tokenizer."""
    sys.path.insert(0, packages)
    spec = importlib.util.spec_from_file_location("contender", Path(packages, "open_clip", "tokenizer.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # only the tokenizer: the package needs torchvision
    tokenizer = module.SimpleTokenizer()
    while (captions := pickle.load(sys.stdin.buffer)) is not None:
        pickle.dump(measure(tokenizer, captions), sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Contender:
    """Published tokenizer in its own process."""

    def __init__(self, packages: Path) -> None:
        if not (packages / "open_clip" / "tokenizer.py").is_file():
            sys.exit(
                f"{packages} does not contain open_clip; install it with: python tests/parity/install.py"
            )
        command = [sys.executable, __file__, "--contend", str(packages)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def measure(self, captions: list[str] | None) -> tuple[float, str]:
        """Run `measure` in the process; None ends it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump(captions, self.process.stdin)
        self.process.stdin.flush()
        return (0.0, "") if captions is None else pickle.load(self.process.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("ONECLIP_PARITY_PACKAGES", str(ROOT / ".parity" / "packages"))
    parser.add_argument(
        "--packages", type=Path, default=Path(default), help="folder with open_clip_torch and regex"
    )
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        contend(options.contend)
        return

    sys.path.insert(0, str(ROOT / "src"))
    from oneclip.text import CLIPTokenizer

    import_module("torch")  # not part of the first call's time
    ours, contender = CLIPTokenizer(), Contender(options.packages)
    whole_words = (token[:-4] for token in ours.vocabulary.encoder if token.endswith("</w>"))
    captions = Captions([word for word in whole_words if len(word) > 2 and word.isascii() and word.isalpha()])
    batch = captions.batch(options.captions)
    plain = sum(text.isascii() and "&" not in text for text in batch) / len(batch)
    print(f"{options.captions} captions a round, {plain:.0%} of them plain ASCII, for example {batch[0]!r}")

    cold, cold_theirs = measure(ours, batch), contender.measure(batch)
    print(f"with empty caches: ours {cold[0]:.3f} s, open_clip_torch {cold_theirs[0]:.3f} s")
    same, ratios = cold[1] == cold_theirs[1], []
    for number in range(1, options.rounds + 1):
        batch = captions.batch(options.captions)
        first = contender.measure(batch)
        mine = measure(ours, batch)
        second = contender.measure(batch)
        same = same and first[1] == mine[1]
        ratios.append(min(first[0], second[0]) / mine[0])
        print(
            f"round {number}: ours {mine[0]:.3f} s, open_clip_torch {first[0]:.3f} s and, the same again, "
            f"{second[0]:.3f} s: ratio {ratios[-1]:.1f}"
        )
    contender.measure(None)
    print(f"ids {'identical' if same else 'DIFFER'}")
    print(f"ratio: median {statistics.median(ratios):.1f}, worst {min(ratios):.1f}")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
