"""Figures for people: of a training, of capsules, of transformed images and of robustness."""
