#!/bin/sh
# Classify the images of this folder, rank them for a sentence, then search them: offline, on a CPU. `make demo` runs it.
#
#     sh examples/demo.sh [COMMAND]      COMMAND: how oneclip is called, `oneclip` if not given
set -eu
oneclip="${1:-oneclip}"
folder="$(dirname "$0")"
python="$(dirname "$(command -v "$oneclip")")/python"
export ONECLIP_OFFLINE=1

echo '$ oneclip classify examples/images --label "a cat" --label "a dog" --label ... --top 2'
"$oneclip" classify "$folder/images" --top 2 \
    --label "a cat" --label "a dog" --label "a fish" --label "an apple" --label "a car" \
    --label "a house" --label "a tree" --label "the sun" --label "a flower" --label "a book"

for sentence in "fruit" "vehicle" "a warm summer day"; do
    echo
    echo "\$ python examples/rank.py \"$sentence\" examples/images"
    "$python" "$folder/rank.py" "$sentence" "$folder/images"
done

ONECLIP_INDEXES="$(mktemp -d)"
export ONECLIP_INDEXES
trap 'rm -rf "$ONECLIP_INDEXES"' EXIT
echo
echo '$ oneclip search "a red car" examples/images --top 3'
"$oneclip" search "a red car" "$folder/images" --top 3

echo
echo "Next, classify images of your own; this model for photographs is downloaded once (605 MB):"
activate="$(dirname "$(command -v "$oneclip")")/activate"
if [ -f "$activate" ]; then
    echo "    . $activate"
fi
echo "    oneclip classify FOLDER --label \"a cat\" --label \"a dog\" --model ViT-B-32-256:datacomp_s34b_b86k"
