"""Which label fits a picture best?

python examples/classify.py examples/pictures/cat.png "a cat" "a dog" "a fish"
"""

import sys

import oneclip

if len(sys.argv) < 4:
    sys.exit(__doc__)
picture, *labels = sys.argv[1:]
clip = oneclip.load("pocket")
for label, probability in clip.classify(picture, labels):
    print(f"{probability:6.1%}  {label}")
