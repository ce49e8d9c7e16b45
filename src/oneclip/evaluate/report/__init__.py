"""HTML report of evaluations: one self-contained page."""
