"""What a training reports: metrics, progress bar, plots and the HTML page."""
