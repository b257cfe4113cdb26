"""Which capsules are kept: how alike images are in them, whether they follow an object, and what is said of it."""

import numpy as np

from lcaps_jax import load_pretrained
from lcaps_jax.data import Split, load
from lcaps_jax.networks import NetworkOutput
from lcaps_jax.networks.base import geometry
from lcaps_jax.views import kept
import workloads


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
    others = [share for (i, j), share in shares.items() if labels[i] != labels[j]]
    np.testing.assert_allclose(found["in_common_of_others"], np.mean(others))
    assert found["in_common_of_class"] != found["in_common"]
    assert (found["k"], found["capsules"], found["types"], found["types_ever"]) == (5, 72, 2, 1)
    assert found["ever"] == len(set(index.ravel()))


def test_images_without_a_second_one_of_their_class_have_no_share():
    found = kept.selection(np.array([[0, 1], [0, 2]]), np.array([3, 4]), geometry(28, 9, 9, 2))
    assert np.isnan(found["in_common_of_class"]) and found["in_common_of_others"] == 0.5
    alone = kept.selection(np.array([[0, 1]]), np.array([3]), geometry(28, 9, 9, 2))
    assert np.isnan(alone["in_common"]) and np.isnan(alone["in_common_of_others"])


_SIZES = geometry(28, 9, 9, 2)  # 6x6 positions, two pixels apart


def _bars(columns):
    """Images with an upright bar at each of these columns, three pixels wide."""
    images = np.zeros((len(columns), 28, 28, 1), np.uint8)
    for image, column in zip(images, columns):
        image[8:20, column - 1 : column + 2] = 255
    return images


def _output(index):
    return NetworkOutput(np.zeros((len(index), 10)), index=np.array(index))


def _of(column, kind=0):
    """Indices of a type at all rows of a column of the grid."""
    return [(row * 6 + column) * 2 + kind for row in range(6)]


def test_kept_capsules_that_move_as_the_object_does_follow_it():
    images = _bars([9, 13, 17])
    np.testing.assert_allclose(kept.following(images, _output([_of(0), _of(2), _of(4)]), _SIZES), 1, atol=1e-5)
    np.testing.assert_allclose(kept.following(images, _output([_of(1), _of(2), _of(3)]), _SIZES), 0.5, atol=1e-5)
    np.testing.assert_allclose(kept.following(images, _output([_of(2)] * 3), _SIZES), 0, atol=1e-5)


def test_objects_in_one_place_or_none_tell_nothing_of_what_follows_them():
    for images in (_bars([13, 14, 13]), np.zeros((3, 28, 28, 1), np.uint8)):
        assert np.isnan(kept.following(images, _output([_of(0), _of(2), _of(4)]), _SIZES))


def test_in_a_frame_they_follow_because_the_frame_does():
    run = workloads.untrained_run(frame="affine")
    images = _bars([5, 13, 22])
    assert 0.8 < kept.following(images, run(images), run.geometry) < 1.2


def test_words_say_where_the_code_vector_says_little_and_where_capsules_stay():
    split = Split(_bars([5, 13, 22]), np.array([1, 2, 3]))
    words = kept.in_words(split, _output([_of(2)] * 3), _SIZES)
    assert "keep capsules of 1 of 2 types." in words
    assert "share 100 % of their kept capsules (8 % by chance), so here the code vector says little" in words
    assert "the middle of the kept capsules moves by 0.0 pixels" in words


def test_words_do_not_blame_a_network_that_does_what_it_should():
    split = Split(_bars([9, 13, 17]), np.array([1, 2, 3]))
    words = kept.in_words(split, _output([[*_of(0), *_of(0, 1)], [*_of(2), *_of(2, 1)], [*_of(4), *_of(4, 1)]]), _SIZES)
    assert words == (
        "These 3 images keep capsules of 2 of 2 types. Two images of different classes share 0 % of their kept "
        "capsules (17 % by chance), so the code vector tells images apart."
    )


def test_one_image_alone_is_described_too():
    assert kept.in_words(Split(_bars([9]), np.array([1])), _output([_of(0)]), _SIZES) == (
        "This image keeps capsules of 1 of 2 types."
    )


def test_of_the_packaged_network_it_says_what_was_measured():
    run = load_pretrained()
    split = load("sample").test.take(np.arange(8))
    output = run(split.images)
    words = kept.in_words(split, output, run.geometry)
    found = kept.selection(np.asarray(output.index), split.labels, run.geometry)
    assert found["types"] == 16 and found["types_ever"] <= 2
    assert f"keep capsules of {found['types_ever']} of 16 types. Capsules of the other types are never" in words
    assert f"share {100 * found['in_common_of_others']:.0f} % of their kept capsules (6 % by chance), so here" in words
