"""How alike selections of capsules are, against the slow and obvious way."""

import numpy as np

from experiments import kept
from lcaps_jax.networks.base import geometry


def test_how_alike_selections_are_against_every_pair():
    rng = np.random.default_rng(0)
    sizes = geometry(28, 9, 9, 2)
    index = np.stack([rng.choice(np.arange(0, 60, 2), 5, replace=False) for _ in range(12)])  # of the first type alone
    labels = np.arange(12) % 3
    found = kept.selection(index, labels, sizes)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    shares = {(i, j): len(set(index[i]) & set(index[j])) / 5 for i, j in pairs}
    alike = [share for (i, j), share in shares.items() if labels[i] == labels[j]]
    np.testing.assert_allclose(found["in_common"], np.mean(list(shares.values())))
    np.testing.assert_allclose(found["in_common_of_class"], np.mean(alike))
    assert found["in_common_of_class"] != found["in_common"]
    assert (found["k"], found["capsules"], found["types"], found["types_ever"]) == (5, 72, 2, 1)
    assert found["ever"] == len(set(index.ravel()))
