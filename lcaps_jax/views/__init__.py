"""What people look at: plots, robustness curves, classified files, the report and the demo page."""
