"""`python -m oneclip.train`, as torchrun starts it: `oneclip train`."""

import sys

from oneclip.cli import main

main(["train", *sys.argv[1:]])
