"""Reports of a training: metrics, progress bar, plots and an HTML page."""
