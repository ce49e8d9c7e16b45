"""Find the images of an embedded folder that look most like one image.

oneclip embed examples/images -o vectors.npz
python examples/nearest.py vectors.npz examples/images/cat.png
"""

import sys

import numpy as np

import oneclip

if len(sys.argv) != 3:
    sys.exit(__doc__)
index = np.load(sys.argv[1])
model = oneclip.load(str(index["model"]))  # the file records the model that made it
similarity = index["vectors"] @ model.encode_images(sys.argv[2])[0]

for i in similarity.argsort()[::-1][:5]:
    print(f"{similarity[i]:6.3f}  {index['names'][i]}")
