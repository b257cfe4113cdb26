"""Transformed images against slow obvious versions, and figures of images with their frames."""

import matplotlib.colors
from matplotlib.patches import Polygon
import numpy as np
import pytest
from scipy import ndimage

from lcaps_jax.nn import NETWORKS
from lcaps_jax.nn.outputs import Output
from lcaps_jax.viz import style, transforms
from lcaps_jax.viz.transforms import ROTATION, SCALE, SHEAR, SHIFT
import workloads


@pytest.mark.parametrize(
    "kind, amount, inverse",
    [
        # From (row, column) in the result to that in the image: scikit-image's and SciPy's way round.
        (ROTATION, 90.0, [[0, 1], [-1, 0]]),
        (ROTATION, 30.0, [[np.sqrt(0.75), 0.5], [-0.5, np.sqrt(0.75)]]),
        (SHEAR, 0.3, [[1, -0.3], [0, 1]]),
        (SCALE, 1.25, [[0.8, 0], [0, 0.8]]),
        (SHIFT, 2.0, [[1, 0], [0, 1]]),  # to the right
    ],
)
def test_images_are_transformed_about_their_middle(kind, amount, inverse):
    images = np.random.default_rng(0).uniform(size=(2, 9, 9, 3)).astype(np.float32)
    moved = transforms.transform(images, kind, np.full(2, amount))
    middle = np.array([4, 4])
    for image, result in zip(images, moved):
        for channel in range(3):
            black_around = np.pad(image[..., channel], 9)
            offset = middle + 9 - inverse @ middle - [0, amount if kind == SHIFT else 0]
            expected = ndimage.affine_transform(black_around, inverse, offset, order=1, output_shape=(9, 9))
            np.testing.assert_allclose(result[..., channel], expected, atol=1e-5)


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_s_frame_is_drawn_over_a_single_image(model):
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[0, 5:20, 12:20] = 255
    for settings, count in (({"frame": "affine"}, 1), ({}, 0)):
        trained = workloads.untrained_model(model=model, **settings)
        seen = images[0], trained(images), trained.geometry, trained.class_names
        for figure in (transforms.classified(*seen, "file"), transforms.explained(*seen)):
            outlines = [patch for patch in figure.axes[0].patches if isinstance(patch, Polygon)]
            assert len(outlines) == count
            if outlines:  # around the middle of the bar, x first
                assert outlines[0].contains_point(outlines[0].get_transform().transform((15.5, 12)))


def test_a_prediction_is_not_green_where_the_true_class_is_unknown():
    image, output = np.zeros((28, 28, 1), np.uint8), Output(activity=np.array([[0.1, 0.9, 0.2]]))
    bars = transforms.classified(image, output, None, list("abc"), "file").axes[1].patches
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars]
    assert colours == [style.OTHER, style.PREDICTED, style.OTHER]
