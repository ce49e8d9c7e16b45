"""Which pictures of an embedded folder look most like this one?

oneclip embed examples/pictures -o vectors.npz
python examples/nearest.py vectors.npz examples/pictures/cat.png
"""

import sys

import numpy as np

import oneclip

if len(sys.argv) != 3:
    sys.exit(__doc__)
index = np.load(sys.argv[1])
clip = oneclip.load(str(index["model"]))  # the file says which model its vectors are of
similarity = index["vectors"] @ clip.encode_images(sys.argv[2])[0]

for i in similarity.argsort()[::-1][:5]:
    print(f"{similarity[i]:6.3f}  {index['names'][i]}")
