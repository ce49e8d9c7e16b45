"""Heat maps: where in an image is the text."""
