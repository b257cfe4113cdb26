"""Trained networks: loading them, predicting with them, exporting them."""
