"""Which pictures of a folder fit a sentence best?

python examples/rank.py "a warm summer day" examples/pictures
"""

import sys
from pathlib import Path

import oneclip

if len(sys.argv) != 3:
    sys.exit(__doc__)
sentence, folder = sys.argv[1:]
paths = sorted(Path(folder).glob("*.png"))

clip = oneclip.load("pocket")
pictures = clip.encode_images(paths)  # (N, D), unit length
similarity = pictures @ clip.encode_texts(sentence)[0]  # (N,) cosines

for i in similarity.argsort()[::-1][:3]:
    print(f"{similarity[i]:6.3f}  {paths[i]}")
