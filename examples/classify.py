"""Show the probability of each label for an image.

python examples/classify.py examples/images/cat.png "a cat" "a dog" "a fish"
"""

import sys

import oneclip

if len(sys.argv) < 4:
    sys.exit(__doc__)
image, *labels = sys.argv[1:]
model = oneclip.load("pocket")
for label, probability in model.classify(image, labels):
    print(f"{probability:6.1%}  {label}")
