"""Heat maps: where in an image is the text."""

from oneclip.explain.maps import Box, Maps, Peak
from oneclip.explain.run import METHODS, Method, explain

__all__ = ["METHODS", "Box", "Maps", "Method", "Peak", "explain"]
