"""Entry point of `python -m oneclip.train`: `oneclip train`, for torchrun."""

import sys

from oneclip.cli import main

main(["train", *sys.argv[1:]])
