"""Rank the images of a folder by how well they fit a sentence.

python examples/rank.py "a warm summer day" examples/images
"""

import sys
from pathlib import Path

import oneclip

if len(sys.argv) != 3:
    sys.exit(__doc__)
sentence, folder = sys.argv[1:]
paths = sorted(Path(folder).glob("*.png"))

model = oneclip.load("pocket")
images = model.encode_images(paths)  # (N, D), unit length
similarity = images @ model.encode_texts(sentence)[0]  # (N,) cosines

for i in similarity.argsort()[::-1][:3]:
    print(f"{similarity[i]:6.3f}  {paths[i]}")
