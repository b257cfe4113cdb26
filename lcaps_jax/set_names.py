"""Names of the data sets of this package, in a file of their own: a misspelt one is refused before JAX is imported."""

import difflib

SAMPLE, FOLDER, EXPANDED_MNIST = TRAINING_SETS = ("sample", "folder", "expanded_mnist")
AFFNIST, AFFNIST_OFFICIAL = TEST_SETS = ("affnist", "affnist_official")
_NEARLY = 0.8  # of difflib's ratio, by which no set of TensorFlow Datasets is taken for one of this package


def correction(name: str) -> str | None:
    """What is wrong with a name that is nearly one of these; None for one of these, and for any other."""
    known = (*TRAINING_SETS, *TEST_SETS)
    close = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
    return f"no such set. Did you mean {close[0]}?" if close and name not in known else None
