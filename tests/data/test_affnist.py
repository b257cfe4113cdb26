"""The generated affNIST against the reference and its own rules, and the reader of the official files on made ones."""

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from lcaps_jax import data
from lcaps_jax.data import Affnist, DataError, Split, affnist
from lcaps_jax.data.affnist import Transformation
import reference

_MANY = 4000


def _digits(count=12, seed=0):
    """Made strokes inside the 20x20 middle, as MNIST's digits are."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.float32)
    for image in images:
        for _ in range(3):
            row, column = rng.integers(5, 18, 2)
            image[row : row + rng.integers(1, 6), column : column + rng.integers(1, 6)] = rng.uniform(0.3, 1)
    return images


def test_warp_against_the_reference():
    z = reference.load("affine_seed0.npz")
    transformation = Transformation(
        rotation=jnp.asarray(z["theta"], jnp.float32),
        shear=jnp.asarray(z["shear"], jnp.float32),
        scale=jnp.stack([z["scale_y"], z["scale_x"]], axis=1).astype(jnp.float32),
        shift=jnp.stack([z["shift_y"], z["shift_x"]], axis=1).astype(jnp.int32),
    )
    warped = jax.jit(affnist.warp)(z["images"] / np.float32(255), transformation)
    np.testing.assert_allclose(warped, z["warped"], atol=1e-3)


def test_parameters_are_uniform_within_the_bounds():
    images = np.repeat(_digits(1), _MANY, axis=0)
    _, done = affnist.distort(jax.random.key(1), images, np.arange(_MANY))
    bounds = {"rotation": np.deg2rad(20), "shear": 0.2}
    values = {name: np.asarray(getattr(done, name)) / bound / 2 + 0.5 for name, bound in bounds.items()}
    values |= {f"scale{i}": (np.asarray(done.scale[:, i]) - 0.8) / 0.4 for i in range(2)}
    for name, value in values.items():
        assert 0 <= value.min() < 0.01 and 0.99 < value.max() <= 1, name
        # Kolmogorov's distance from uniform, at a level of one in a thousand.
        distance = np.max(np.abs(np.sort(value) - (np.arange(_MANY) + 0.5) / _MANY))
        assert distance < 1.95 / np.sqrt(_MANY), name
    assert np.abs(np.corrcoef(np.stack(list(values.values()))) - np.eye(4)).max() < 0.06


def test_ink_stays_on_the_canvas_and_goes_everywhere_it_can():
    images = _digits()
    index = np.tile(np.arange(len(images)), 100)
    positions = np.arange(len(index))
    warped, done = affnist.distort(jax.random.key(2), images[index], positions)
    unshifted = affnist.warp(images[index], affnist.draw(jax.random.key(2), positions))
    ink = [np.where(np.asarray(x) > 0.05, x, 0) for x in (warped, unshifted)]
    np.testing.assert_allclose(*(x.sum(axis=(1, 2)) for x in ink), rtol=1e-4)
    assert all(np.rot90(ink[0], turns, (1, 2))[:, 0].any() for turns in range(4))  # each border is reached by some
    for i in range(20):  # where it was moved is where its ink is
        np.testing.assert_allclose(ink[0][i], np.roll(ink[1][i], np.asarray(done.shift[i]), axis=(0, 1)), atol=1e-5)


def test_an_image_s_transformation_depends_on_key_and_position_alone():
    images = _digits()
    whole, done = affnist.distort(jax.random.key(0), images, np.arange(12))
    np.testing.assert_allclose(affnist.warp(images, done), whole, atol=1e-5)
    part, _ = affnist.distort(jax.random.key(0), images[5:8], np.arange(5, 8))
    np.testing.assert_allclose(part, whole[5:8], atol=1e-6)
    other, _ = affnist.distort(jax.random.key(1), images, np.arange(12))
    assert not np.allclose(other, whole)
    black, _ = affnist.distort(jax.random.key(0), np.zeros((2, 28, 28), np.float32), np.arange(2))
    assert not np.asarray(black).any()


def test_variants_follow_each_other(monkeypatch):
    digits = Split(np.rint(255 * _digits(30)).astype(np.uint8)[..., None], np.arange(30, dtype=np.int32) % 10)
    made = Affnist(digits, 3)
    assert made.images.shape == (90, 40, 40, 1) and made.images.dtype == np.uint8 and made.about["variants"] == 3
    assert len({image.tobytes() for image in made.images}) == 90 and made.transformations().shift.shape == (90, 2)
    np.testing.assert_array_equal(made.labels, np.tile(digits.labels, 3))
    monkeypatch.setattr(affnist, "_CHUNK", 7)
    np.testing.assert_allclose(Affnist(digits, 3).images.astype(int), made.images, atol=1)


def _official(count, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 40, 40)).astype(np.uint8)
    labels = rng.integers(0, 10, (1, count)).astype(np.uint8)
    content = {"image": images.reshape(count, -1).T, "label_int": labels, "label_one_of_n": np.eye(10)[labels[0]].T}
    return images, labels[0], content


def _archive(root, batches):
    """Writes the official archive where a user puts it; each batch is the content of a file."""
    path = root / "downloads" / "manual" / "affnist_official" / "test_batches.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(batches, start=1):
            stored = io.BytesIO()
            scipy.io.savemat(stored, {"affNISTdata": content})
            archive.writestr(f"test_batches/{number}.mat", stored.getvalue())
    return path


def test_the_official_file_is_read(tmp_path):
    made = [_official(count=2, seed=i) for i in range(32)]
    _archive(tmp_path, [content for *_, content in made])
    split = data.load_test("affnist_official", str(tmp_path), 40, class_names=tuple("9876543210"))
    images, labels = (np.concatenate([part[i] for part in made]) for i in range(2))
    assert split.about["variants"] == 32 and split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.images, images[..., None])
    np.testing.assert_array_equal(split.labels, 9 - labels.astype(int))


def test_an_official_file_that_is_not_there_or_not_whole_is_named(tmp_path):
    with pytest.raises(DataError, match="affnist_official/test_batches.zip .*download https://"):
        data.load_test("affnist_official", str(tmp_path), 40)
    path = _archive(tmp_path, [_official(count=1, seed=0)[2]] * 31)
    with pytest.raises(DataError, match=f"{path} .*32.mat"):
        data.load_test("affnist_official", str(tmp_path), 40)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=str(path)):
        data.load_test("affnist_official", str(tmp_path), 40)


def test_affnist_is_for_tests_and_of_one_size_and_colour():
    for dataset in ("affnist", "affnist_official"):
        with pytest.raises(DataError, match=f"dataset={dataset}: .*expanded_mnist"):
            data.load(dataset)
        with pytest.raises(DataError, match=f"dataset={dataset}: .*40x40.*28x28"):
            data.load_test(dataset, None, 28)
        with pytest.raises(DataError, match=f"invert: .*{dataset}"):
            data.load_test(dataset, None, 40, invert=True)
