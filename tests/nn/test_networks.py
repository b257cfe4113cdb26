"""Networks against NumPy float64, their shapes, initial scale and presets, and what they refuse."""

import functools
import itertools

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.nn import NETWORKS, Preprocessed, build_network
from lcaps_jax.nn.ladder import RELEASED_CHOICES, LadderLayer
from lcaps_jax.nn.layers import PrimaryCapsules
from lcaps_jax.nn.preprocess import AffineFrame
from lcaps_jax.ops import capsules
from lcaps_jax.util.errors import ConfigError
import slow

_SMALL = {"filters": 6, "capsule_types": 2}


def _init(model, *inputs, seed=0):
    """Parameters, compiled as one program: op by op it takes minutes."""
    quick = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 1})  # to compile
    return quick(jax.random.key(seed), *inputs)["params"]


def _ladder(**settings):
    return build_network("lcapsnet", 3, **{"k": 5, **_SMALL, **settings})


def _capsnet(**settings):
    return build_network("capsnet", 3, **{**_SMALL, **settings})


def _images(count=2, size=28):
    return np.random.default_rng(0).random((count, size, size, 1), np.float32)


# Networks are static, so that the same network is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, *inputs):
    return model.apply({"params": params}, *inputs)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(model, params, images, labels):
    def loss(params):
        return model.loss(model.apply({"params": params}, images, labels), labels, images).sum()

    return jax.grad(loss)(params)


def _millions(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    return round(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6, 1)


def test_ladder_network_against_the_equations_capsule_by_capsule():
    model, images, labels = _ladder(), _images(), jnp.array([2, 0])
    params = _init(model, images, seed=1)
    # Initial biases are zero, which would hide a misplaced one.
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: x if abs(x).max() > 0 else 0.1 * rng.standard_normal(x.shape, np.float32), params)
    output = _apply(model, params, images)
    losses = model.loss(output, labels)
    for i in range(2):
        activity, pose, index, primary = slow.ladder_capsnet(params, images[i], k=5)
        np.testing.assert_array_equal(output.kept_index[i], index)
        np.testing.assert_allclose(output.primary_activity[i], primary, atol=1e-5)
        np.testing.assert_allclose(output.activity[i], activity, atol=1e-5)
        np.testing.assert_allclose(output.pose[i], pose, atol=1e-5)
        np.testing.assert_allclose(losses[i], slow.loss(activity, primary, index, int(labels[i])), atol=1e-5)


@pytest.mark.parametrize("regression", [True, False])
def test_per_capsule_ladder_against_the_equations_capsule_by_capsule(regression):
    model, images = _ladder(ladder="per_capsule", regression=regression), _images()
    params = _init(model, images, seed=1)
    output = _apply(model, params, images)
    for i in range(2):
        index, kept = output.kept_index[i], output.kept_capsules[i]
        up = params["ladder"]["propagation_kernel"].reshape(3, -1, 8, 16)[:, index]
        s = slow.propagate(kept, up, np.ones((3, 5)))
        if not regression:
            np.testing.assert_allclose(output.pose[i], [slow.squash(row) for row in s], atol=1e-5)
            continue
        down = params["ladder"]["regression_kernel"].reshape(3, -1, 8, 16)[:, index]
        d = slow.agreement(slow.regress(s, down), kept)
        np.testing.assert_allclose(output.activity[i], d, atol=1e-5)
        pose = d[:, None] * s / np.linalg.norm(s, axis=1, keepdims=True)
        np.testing.assert_allclose(output.pose[i], pose, atol=1e-5)
    gradients = _gradients(model, params, images, jnp.array([0, 1]))
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(g) for g in jax.tree.leaves(gradients["ladder"]))


def test_without_regression_the_activity_is_the_length_of_the_pose():
    """The ablation shares pruning and propagation with the whole network."""
    whole, bare, images = _ladder(), _ladder(regression=False), _images()
    params = _init(whole, images)
    shared = {**params, "ladder": {k: v for k, v in params["ladder"].items() if "regression" not in k}}
    assert jax.tree.map(jnp.shape, shared) == jax.tree.map(jnp.shape, _init(bare, images))
    output, with_ladder = _apply(bare, shared, images), _apply(whole, params, images)
    assert output.distance is None and output.regressed is None
    np.testing.assert_allclose(output.activity, np.linalg.norm(output.pose, axis=-1), rtol=1e-5)
    directions = [x.pose / np.linalg.norm(x.pose, axis=-1, keepdims=True) for x in (output, with_ladder)]
    np.testing.assert_allclose(*directions, atol=1e-4)
    chex.assert_tree_all_finite(_gradients(bare, shared, images, jnp.array([0, 1])))


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("size, channels, dim, pose_dim", [(28, 1, 8, 16), (21, 3, 4, 6)])
def test_shapes_and_finite_gradients(preset, size, channels, dim, pose_dim):
    model = _ladder(preset=preset, capsule_dim=dim, pose_dim=pose_dim)
    images = jnp.ones((2, size, size, channels)).at[1].set(0)  # a black image: every ReLU capsule is exactly zero
    params, n = _init(model, images), model.geometry(size).capsules
    output = _apply(model, params, images)
    chex.assert_shape([output.activity, output.distance], (2, 3))
    chex.assert_shape(output.pose, (2, 3, pose_dim))
    chex.assert_shape([output.primary_activity, output.code], (2, n))
    chex.assert_shape([output.kept_index, output.kept_capsules], [(2, 5), (2, 5, dim)])
    chex.assert_shape(output.regressed, (2, 3, 5, dim))
    zero = jax.tree.map(jnp.zeros_like, params)  # every capsule, pose and distance is exactly zero
    for each in (params, zero):
        gradients = _gradients(model, each, images, jnp.array([0, 1]))
        chex.assert_tree_all_finite(gradients)
        chex.assert_trees_all_equal_shapes(gradients, params)


def test_pruning_per_type_keeps_equally_many_of_each():
    model, images = _ladder(pruning="top_k_per_type", k=6), _images()
    index = np.asarray(_apply(model, _init(model, images), images).kept_index)
    np.testing.assert_array_equal(np.sum(index % 2, axis=1), [3, 3])
    with pytest.raises(ConfigError, match="^k=5: "):
        _ladder(pruning="top_k_per_type").geometry(28)


def test_second_convolution_against_loops():
    """Conv1, a second one of stride 2 and the primary capsules' of stride 1."""
    layer, image = PrimaryCapsules(conv1_kernel=3, conv2_kernel=4, primary_kernel=2, **_SMALL), _images(1, 13)
    params = _init(layer, image)
    x = np.maximum(slow.convolve(image[0], **params["conv1"], stride=1), 0)
    x = np.maximum(slow.convolve(x, **params["conv2"], stride=2), 0)
    t = slow.convolve(x, **params["primary"], stride=1)
    sizes = layer.geometry(13)
    assert (sizes.grid, sizes.stride, sizes.receptive_field) == (len(t), 2, 8)
    np.testing.assert_allclose(_apply(layer, params, image)[0], t.reshape(-1, 8), atol=1e-5)
    with pytest.raises(ConfigError, match="^image_size=7: must be at least 8"):
        layer.geometry(7)


@pytest.mark.parametrize("model, preset", [*((name, "paper") for name in NETWORKS), ("lcapsnet", "released")])
@pytest.mark.parametrize("frame", [None, AffineFrame()])
def test_labels_of_another_shape_are_refused_by_every_network(model, preset, frame):
    network = Preprocessed(network=build_network(model, 3, preset), frame=frame)
    images = jnp.zeros((2, 28, 28, 1))
    shapes, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    output = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    with pytest.raises(ValueError, match=r"^labels .*\[2, 1\].*\[2\]"):
        network.loss(output, jnp.zeros((2, 1), int), images)


def test_parameter_counts():
    """As published: 42.8 million for K=70 on MNIST, 80.9 for the released graph, 8.2 for CapsNet, 35.4 for the CNN."""
    models = [build_network(preset=preset) for preset in ("paper", "released")]
    models += [build_network(name) for name in ("capsnet", "cnn")]
    assert [_millions(model) for model in models] == [42.8, 80.9, 8.2, 35.4]


def test_the_small_preset_has_fewer_parameters_and_keeps_capsules_of_all_types():
    assert all(3 * _millions(build_network(name, preset="small")) < _millions(build_network(name)) for name in NETWORKS)
    settings = NETWORKS["lcapsnet"].preset("small", 28, {"capsule_types": 6})
    assert settings["k"] == 6 * 7  # a fifth of 36 positions
    for name in ("capsnet", "cnn"):
        with pytest.raises(ConfigError, match="^preset=released: "):
            build_network(name, preset="released")


def test_capsnet_routes_votes_and_reconstructs_the_asked_class():
    model, images, labels = _capsnet(capsule_dim=4, pose_dim=6), _images(2, 21), jnp.array([2, 0])
    params = _init(model, images, labels)
    output = _apply(model, params, images, labels)
    t = PrimaryCapsules(capsule_dim=4, **_SMALL).apply({"params": params["primary_capsules"]}, images)
    transform = np.asarray(params["routing"]["kernel"], np.float64).reshape(3, 6, 4, t.shape[1])
    for i in range(2):
        votes = np.einsum("id,jedi->ije", [slow.squash(row) for row in t[i]], transform)
        pose, coupling = slow.route(votes, 3)
        np.testing.assert_allclose(output.pose[i], pose, atol=1e-5)
        np.testing.assert_allclose(output.coupling[i], coupling, atol=1e-5)
        np.testing.assert_allclose(output.activity[i], np.linalg.norm(pose, axis=-1), atol=1e-5)
    other = _apply(model, params, images, 1 - labels)
    assert not np.allclose(output.reconstruction, other.reconstruction)
    predicted = jnp.argmax(output.activity, axis=1)
    as_predicted = _apply(model, params, images, predicted).reconstruction
    np.testing.assert_allclose(_apply(model, params, images).reconstruction, as_predicted, atol=1e-6)

    squares = np.sum((np.asarray(output.reconstruction) - images.reshape(2, -1)) ** 2, axis=1)
    margin = capsules.margin_loss(output.activity, labels)
    np.testing.assert_allclose(model.loss(output, labels, images), margin + 0.0005 * squares, rtol=1e-5)
    assert "decoder" not in _init(_capsnet(decoder=False), images)
    gradients = _gradients(model, params, images, labels)
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_convnet_against_lax_and_its_dropout():
    model, images, labels = build_network("cnn", 3, filters=16), _images(3, 12), jnp.array([0, 2, 1])
    params = _init(model, images)
    x = images
    for layer in (1, 2, 3):
        weights, axes = params[f"conv{layer}"], ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, weights["kernel"], (1, 1), "SAME", dimension_numbers=axes)
        x = jax.nn.relu(x + weights["bias"])
    hidden = x.reshape(3, -1)
    for layer in (1, 2):
        hidden = jax.nn.relu(hidden @ params[f"dense{layer}"]["kernel"] + params[f"dense{layer}"]["bias"])
    logits = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    output = _apply(model, params, images)
    np.testing.assert_allclose(output.logits, logits, atol=1e-4)
    np.testing.assert_allclose(output.activity, jax.nn.softmax(logits), atol=1e-5)
    of_true = np.asarray(output.activity)[np.arange(3), labels]
    np.testing.assert_allclose(model.loss(output, labels), -np.log(of_true), rtol=1e-4)

    dropped = jax.jit(lambda keys: model.apply({"params": params}, images, None, keys, train=True).logits)
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_allclose(dropped(keys)[1:], dropped(keys.at[0].set(keys[1]))[1:], atol=1e-6)  # each by its own
    draws = jnp.stack([dropped(jax.random.split(jax.random.key(i), 3)) for i in range(200)])
    assert np.std(draws, axis=0).min() > 0
    np.testing.assert_allclose(draws.mean(axis=0), logits, atol=4 * float(np.std(draws, axis=0).max()) / 200**0.5)


def test_each_choice_of_the_released_graph_changes_the_output():
    images, labels = jax.random.uniform(jax.random.key(1), (2, 28, 28, 1)), jnp.array([0, 2])
    assert _ladder(**RELEASED_CHOICES) == _ladder(preset="released")
    wide, whole, paper = (
        jax.eval_shape(_ladder(**settings).init, jax.random.key(0), images)
        for settings in ({"ascending_widths": True}, {"preset": "released"}, {})
    )
    assert wide == whole != paper
    params = _init(_ladder(uniform_biases=True), images)
    ladder = params["ladder"]
    twice = {**params, "ladder": {**ladder, **{n: 2 * ladder[n] for n in ("propagation_kernel", "propagation_bias")}}}

    def output(params=params, **settings):
        return _apply(_ladder(**settings), params, images)

    plain = output()
    assert plain.kept_capsules.min() < 0 <= output(rectify=True).kept_capsules.min()
    unit, unit_twice = (output(each, regress_direction=True).regressed for each in (params, twice))
    np.testing.assert_allclose(unit, unit_twice, atol=1e-6)
    assert np.abs(output(twice).regressed - plain.regressed).max() > 1e-3
    unsquared = output(squared_distance=False)
    mean_distance = np.linalg.norm(plain.regressed - plain.kept_capsules[:, None], axis=-1).mean(axis=-1)
    np.testing.assert_allclose(unsquared.distance, mean_distance, atol=1e-6)
    np.testing.assert_allclose(unsquared.activity, np.exp(-5.12 * mean_distance), atol=1e-6)
    np.testing.assert_allclose(output(class_activity="complement").activity, 1 - plain.distance, atol=1e-6)
    class_losses = capsules.margin_loss(plain.activity, labels), capsules.released_loss(plain.distance, labels)
    code_losses = (
        each(plain.code, plain.primary_activity) for each in (capsules.code_loss, capsules.released_code_loss)
    )
    for (class_loss, expected), (code_loss, weak) in itertools.product(
        zip(("margin", "released"), class_losses), zip(("sum", "mean"), code_losses)
    ):
        loss = _ladder(class_loss=class_loss, code_loss=code_loss).loss(plain, labels)
        np.testing.assert_allclose(loss, expected + 1e-4 * weak, atol=1e-6)


def test_initial_scale_is_glorot_s_of_one_class_network():
    pruned = capsules.Pruned(jnp.zeros((1, 20, 8)), jnp.zeros((1, 20), int), jnp.zeros((1, 100)))
    params = _init(LadderLayer(), pruned)
    fans = {
        "propagation/kernel1": (100, 384),
        "propagation/kernel3": (256, 128),
        "contribution/kernel4": (20, 20),
        "propagation_kernel": (128, 20 * 128),
        "regression_kernel": (128, 20 * 128),
    }
    for name, both in fans.items():
        leaf, limit = traverse_util.flatten_dict(params, sep="/")[name], np.sqrt(6 / sum(both))
        assert 0.97 * limit < np.abs(leaf).max() <= limit, name
        np.testing.assert_allclose(np.std(leaf), limit / np.sqrt(3), rtol=0.05)
    bias = _init(LadderLayer(uniform_biases=True), pruned)["regression"]["bias2"]
    assert 0.97 * np.sqrt(3 / 256) < np.abs(bias).max() <= np.sqrt(3 / 256)


@pytest.mark.parametrize(
    "image, conv1, primary, grid, n",
    [(28, 9, 9, 6, 1152), (28, 9, 15, 3, 288), (40, 9, 9, 12, 4608), (40, 15, 15, 6, 1152)],
)
def test_geometry_of_the_paper_on_mnist_and_affnist(image, conv1, primary, grid, n):
    sizes = PrimaryCapsules(conv1, primary).geometry(image)
    assert (sizes.grid, sizes.capsules) == (grid, n)


def test_settings_that_do_not_fit_are_refused():
    assert PrimaryCapsules().geometry(17).grid == 1
    for model in (_ladder(), _capsnet()):
        with pytest.raises(ConfigError, match="^image_size=16: must be at least 17"):
            model.geometry(16)
        with pytest.raises(ConfigError, match="^image_size=16"):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    with pytest.raises(ConfigError, match="^k=73: .*72"):
        jax.eval_shape(_ladder(k=73).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    bad = {"preset": "final", "pruning": "Top_k", "ladder": "own", "k": 0, "filters": "6", "dtype": "float16", "kk": 5}
    for name, value in bad.items():
        with pytest.raises(ConfigError, match=f"^{name}={value}: "):
            build_network(**{name: value})
    with pytest.raises(ConfigError, match="^model=lcapsnett: .*lcapsnet"):
        build_network("lcapsnett")


def test_bfloat16_computes_nearly_the_same_with_float32_outputs():
    images = _images(4)
    full, half = _ladder(k=72), _ladder(k=72, dtype="bfloat16")  # all kept: no choice can flip
    params = _init(full, images)
    chex.assert_trees_all_equal_dtypes(params, _init(half, images))
    expected, got = (_apply(model, params, images) for model in (full, half))
    assert got.activity.dtype == got.pose.dtype == got.primary_activity.dtype == jnp.float32
    np.testing.assert_allclose(got.activity, expected.activity, atol=2e-2)
    assert not np.array_equal(got.activity, expected.activity)
