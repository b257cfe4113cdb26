"""The network against NumPy float64, its shapes and initial scale, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import capsules, networks
from lcaps_jax.data import augment
from lcaps_jax.networks.base import PrimaryCapsules, geometry
from lcaps_jax.networks.capsnet import CapsNet
from lcaps_jax.networks.cnn import ConvNet
from lcaps_jax.networks.ladder import BALANCED, BIASED, CAPSULE, LENGTH, RANDOM, LadderCapsNet, LadderLayer
from lcaps_jax.networks.released import PAPER, RELEASED_CHOICES, VARIANTS
import slow
import workloads


def _init(model, *inputs, seed=0):
    """Parameters, compiled as one program: op by op it takes minutes."""
    quick = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 1})  # to compile
    return quick(jax.random.key(seed), *inputs)["params"]


def _network(**settings):
    return LadderCapsNet(**{"classes": 3, "k": 5, "channels": 6, "types": 2, **settings})


def test_paper_variant_against_the_equations_capsule_by_capsule():
    model = _network()
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    params = _init(model, images, seed=1)
    # Initial biases are zero, which would hide a misplaced one.
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: x if abs(x).max() > 0 else 0.1 * rng.standard_normal(x.shape, np.float32), params)
    labels = jnp.array([2, 0])
    output = jax.jit(lambda p: model.apply({"params": p}, images))(params)
    losses = model.loss(output, labels)
    for i in range(2):
        activity, pose, index, primary = slow.ladder_capsnet(params, images[i], k=5)
        np.testing.assert_array_equal(output.index[i], index)
        np.testing.assert_allclose(output.primary_activity[i], primary, atol=1e-5)
        np.testing.assert_allclose(output.activity[i], activity, atol=1e-5)
        np.testing.assert_allclose(output.pose[i], pose, atol=1e-5)
        np.testing.assert_allclose(losses[i], slow.loss(activity, primary, index, int(labels[i])), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size, channels", [(28, 1), (21, 3)])
def test_shapes_and_finite_gradients(variant, size, channels):
    model = _network(variant=variant)
    images = jnp.ones((2, size, size, channels)).at[1].set(0)  # a black image: every ReLU capsule is exactly zero
    params = _init(model, images)
    n = geometry(size, 9, 9, 2).capsules
    output = jax.jit(lambda p: model.apply({"params": p}, images))(params)
    chex.assert_shape(output.activity, (2, 3))
    chex.assert_shape(output.error, (2, 3))
    chex.assert_shape(output.pose, (2, 3, 16))
    chex.assert_shape([output.primary_activity, output.code], (2, n))
    chex.assert_shape(output.index, (2, 5))
    chex.assert_shape(output.kept, (2, 5, 8))
    chex.assert_shape(output.regressed, (2, 3, 5, 8))
    np.testing.assert_allclose(output.code.sum(axis=1), 5)

    gradients = _gradients(model, params, images, jnp.array([0, 1]))
    chex.assert_tree_all_finite(gradients)
    chex.assert_trees_all_equal_shapes(gradients, params)


def test_without_the_ladder_the_activity_is_the_length_of_the_pose():
    """The ablation shares pruning and propagation with the network that it is of, and has no regression."""
    whole, bare = _network(), _network(activity=LENGTH)
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    params = _init(whole, images)
    shared = {**params, "ladder": {k: v for k, v in params["ladder"].items() if "regression" not in k}}
    assert jax.tree.map(jnp.shape, shared) == jax.tree.map(jnp.shape, _init(bare, images))
    output = jax.jit(lambda p: bare.apply({"params": p}, images))(shared)
    with_ladder = jax.jit(lambda p: whole.apply({"params": p}, images))(params)
    assert output.error is None and output.regressed is None
    np.testing.assert_allclose(output.activity, np.linalg.norm(output.pose, axis=-1), rtol=1e-5)
    directions = [x.pose / np.linalg.norm(x.pose, axis=-1, keepdims=True) for x in (output, with_ladder)]
    np.testing.assert_allclose(*directions, atol=1e-4)
    gradients = _gradients(bare, shared, images, jnp.array([0, 1]))
    chex.assert_tree_all_finite(gradients)
    assert np.any(gradients["ladder"]["propagation_kernel"])


@pytest.mark.parametrize("activity", ["agreement", "length"])
def test_own_operators_against_the_equations_capsule_by_capsule(activity):
    model = _network(operators=CAPSULE, activity=activity)
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    params = _init(model, images, seed=1)
    output = jax.jit(lambda p: model.apply({"params": p}, images))(params)
    for i in range(2):
        index, kept = output.index[i], output.kept[i]
        up = params["ladder"]["propagation_kernel"].reshape(3, -1, 8, 16)[:, index]
        s = slow.propagate(kept, up, np.ones((3, 5)))
        if activity == LENGTH:
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


def test_balanced_selection_keeps_as_many_of_each_type():
    model = _network(selection=BALANCED, k=6)
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    index = model.apply({"params": _init(model, images)}, images).index
    np.testing.assert_array_equal(np.sum(np.asarray(index) % 2, axis=1), [3, 3])
    with pytest.raises(ValueError, match="k=5 .*multiple of 2"):
        _network(selection=BALANCED).geometry(28)


def test_biased_selection_adds_a_bias_of_each_type_and_trains_it_alone():
    model, plain = _network(selection=BIASED), _network()
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    params, labels = _init(model, images), jnp.array([0, 1, 2])
    assert params["selection"]["bias"].tolist() == [0, 0]
    without = {name: params[name] for name in ("primary_capsules", "ladder")}
    biased, active = model.apply({"params": params}, images), plain.apply({"params": without}, images)
    np.testing.assert_array_equal(biased.index, active.index)
    np.testing.assert_array_equal(model.loss(biased, labels), plain.loss(active, labels))
    gradients = _gradients(model, params, images, labels)
    too_many = np.sum(np.mean(np.asarray(active.index) % 2, axis=1) - 0.5)  # of the second type, over the three images
    assert too_many != 0
    np.testing.assert_allclose(gradients.pop("selection")["bias"], [-too_many, too_many], atol=1e-6)
    chex.assert_trees_all_close(gradients, _gradients(plain, without, images, labels), atol=1e-7)
    ahead = {**params, "selection": {"bias": jnp.array([0.0, 1.0])}}  # more than any difference of activities
    index = np.asarray(model.apply({"params": ahead}, images).index)
    np.testing.assert_array_equal(index % 2, np.ones((3, 5)))


@pytest.mark.parametrize("kind", [LadderCapsNet, CapsNet])
def test_second_convolution_against_loops(kind):
    """Conv1, a second one of stride 2 and the primary capsules' of stride 1."""
    model = kind(classes=3, channels=6, types=2, conv1_kernel=3, conv2_kernel=4, primary_kernel=2)
    model = model.clone(k=5) if kind is LadderCapsNet else model
    image = np.random.default_rng(0).random((1, 13, 13, 1), np.float32)
    params = _init(model, image)
    layers = params["primary_capsules"]
    x = np.maximum(slow.convolve(image[0], **layers["conv1"], stride=1), 0)
    x = np.maximum(slow.convolve(x, **layers["conv2"], stride=2), 0)
    t = slow.convolve(x, **layers["primary"], stride=1)
    sizes = model.geometry(13)
    assert (sizes.grid, sizes.stride, sizes.receptive_field) == (len(t), 2, 8)
    activity = model.apply({"params": params}, image).primary_activity
    np.testing.assert_allclose(activity[0], capsules.squashed_length(jnp.asarray(t.reshape(-1, 8))), atol=1e-5)
    with pytest.raises(ValueError, match="must be at least 8"):
        model.geometry(7)


def test_random_selection_is_an_image_s_own():
    model = _network(selection=RANDOM)
    images = augment.to_unit_range(workloads.random_split(20).images)
    params = _init(model, images)
    index = np.asarray(jax.jit(lambda p: model.apply({"params": p}, images))(params).index)
    assert (np.diff(index, axis=1) > 0).all() and len(np.unique(index)) > 40
    assert len({tuple(row) for row in index}) == 20
    alone = jax.jit(lambda p: model.apply({"params": p}, images[7:9]))(params).index
    np.testing.assert_array_equal(alone, index[7:9])


def test_dimensions_of_capsules_and_poses():
    for kind in (LadderCapsNet, CapsNet):
        settings = {"k": 5} if kind is LadderCapsNet else {}
        model = kind(classes=3, channels=6, types=2, capsule_dim=4, pose_dim=6, **settings)
        output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
        chex.assert_shape(output.pose, (2, 3, 6))
        chex.assert_shape(output.primary_activity, (2, 72))


def _gradients(model, params, images, labels):
    return jax.jit(jax.grad(lambda p: model.loss(model.apply({"params": p}, images), labels).sum()))(params)


@pytest.mark.parametrize("settings", [*({"model": name} for name in networks.NETWORKS), {"variant": "released"}])
@pytest.mark.parametrize("frame", ["none", "affine"])
def test_labels_of_another_shape_are_refused_by_every_network(settings, frame):
    network = networks.from_config(workloads.tiny_config(**settings, frame=frame), 3)
    scores = jnp.zeros((2, 3))
    output = networks.NetworkOutput(activity=scores, error=scores, logits=scores)
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(2,\) .* got .*\(2, 1\)"):
        network.loss(output, jnp.zeros((2, 1), int))


def test_all_zero_weights_have_finite_gradients():
    """Every capsule, pose and distance is exactly zero."""
    for variant in VARIANTS:
        model = _network(variant=variant)
        images = jnp.zeros((1, 28, 28, 1))
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
        gradients = _gradients(model, params, images, jnp.array([0]))
        chex.assert_tree_all_finite(gradients)


def test_parameter_counts_of_the_paper():
    """42.8 million for K=70 on MNIST with 9x9 kernels, 80.9 for the released graph."""
    for variant, millions in (("paper", 42.8), ("released", 80.9)):
        shapes = jax.eval_shape(LadderCapsNet(variant=variant).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        assert round(count / 1e6, 1) == millions


def test_parameter_counts_of_the_baselines():
    """8.2 million for CapsNet with its decoder, 35.4 for Sabour's convolutional network."""
    for model, millions in ((CapsNet(), 8.2), (ConvNet(), 35.4)):
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        assert round(count / 1e6, 1) == millions


def test_capsnet_routes_votes_and_reconstructs_the_asked_class():
    model = CapsNet(classes=3, channels=6, types=2, iterations=3)
    images = np.random.default_rng(0).random((2, 21, 21, 1), np.float32)
    labels = jnp.array([2, 0])
    params = _init(model, images, labels)
    output = jax.jit(lambda p, y: model.apply({"params": p}, images, y))(params, labels)
    t = PrimaryCapsules(channels=6, types=2).apply({"params": params["primary_capsules"]}, images)
    n = t.shape[1]
    transform = np.asarray(params["routing"]["kernel"], np.float64).reshape(3, 16, 8, n)
    for i in range(2):
        votes = np.einsum("id,jedi->ije", [slow.squash(row) for row in t[i]], transform)
        pose, coupling = slow.route(votes, 3)
        np.testing.assert_allclose(output.pose[i], pose, atol=1e-5)
        np.testing.assert_allclose(output.coupling[i], coupling, atol=1e-5)
        np.testing.assert_allclose(output.activity[i], np.linalg.norm(pose, axis=-1), atol=1e-5)
    other = jax.jit(lambda p, y: model.apply({"params": p}, images, y))(params, 1 - labels)
    assert not np.allclose(output.reconstruction, other.reconstruction)
    predicted = jax.jit(lambda p: model.apply({"params": p}, images))(params)
    as_predicted = model.apply({"params": params}, images, jnp.argmax(output.activity, axis=1))
    np.testing.assert_allclose(predicted.reconstruction, as_predicted.reconstruction, atol=1e-6)

    squares = np.sum((np.asarray(output.reconstruction) - images.reshape(2, -1)) ** 2, axis=1)
    margin = capsules.margin_loss(output.activity, labels)
    np.testing.assert_allclose(model.loss(output, labels, images), margin + 0.0005 * squares, rtol=1e-5)
    bare = CapsNet(classes=3, channels=6, types=2, decoder=False)
    assert "decoder" not in _init(bare, images)
    gradients = jax.jit(
        jax.grad(lambda p: model.loss(model.apply({"params": p}, images, labels), labels, images).sum())
    )(params)
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_convnet_against_lax_and_its_dropout():
    model = ConvNet(classes=3, channels=16)
    images = np.random.default_rng(0).random((3, 12, 12, 1), np.float32)
    params = _init(model, images)
    x = images
    for layer in (1, 2, 3):
        weights = params[f"conv{layer}"]
        x = jax.nn.relu(
            jax.lax.conv(x.transpose(0, 3, 1, 2), weights["kernel"].transpose(3, 2, 0, 1), (1, 1), "SAME").transpose(
                0, 2, 3, 1
            )
            + weights["bias"]
        )
    hidden = x.reshape(3, -1)
    for layer in (1, 2):
        hidden = jax.nn.relu(hidden @ params[f"dense{layer}"]["kernel"] + params[f"dense{layer}"]["bias"])
    logits = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    output = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(output.logits, logits, atol=1e-4)
    np.testing.assert_allclose(output.activity, jax.nn.softmax(logits), atol=1e-5)
    labels = jnp.array([0, 2, 1])
    np.testing.assert_allclose(
        model.loss(output, labels), -np.log(np.asarray(output.activity)[np.arange(3), labels]), rtol=1e-4
    )

    dropped = jax.jit(lambda keys: model.apply({"params": params}, images, None, keys).logits)
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_array_equal(dropped(keys), dropped(keys))
    np.testing.assert_allclose(dropped(keys)[1:], dropped(keys.at[0].set(keys[1]))[1:], atol=1e-6)  # each by its own
    draws = jnp.stack([dropped(jax.random.split(jax.random.key(i), 3)) for i in range(200)])
    assert np.std(draws, axis=0).min() > 0
    np.testing.assert_allclose(draws.mean(axis=0), logits, atol=4 * float(np.std(draws, axis=0).max()) / 200**0.5)


def test_all_the_released_graph_s_choices_are_the_released_graph():
    images = jax.random.uniform(jax.random.key(1), (2, 28, 28, 1))
    every = _network(variant="+".join((PAPER, *RELEASED_CHOICES)))
    params = _init(every, images)
    chex.assert_trees_all_equal(params, _init(_network(variant="released"), images))

    def output_and_loss(variant):
        model = _network(variant=variant)
        output = model.apply({"params": params}, images)
        return output, model.loss(output, jnp.array([0, 2]))

    chex.assert_trees_all_equal(output_and_loss(every.variant), output_and_loss("released"))


def test_each_of_the_released_graph_s_choices_changes_what_it_says():
    images = jax.random.uniform(jax.random.key(1), (2, 28, 28, 1))
    labels = jnp.array([0, 2])
    shapes = {
        v: jax.eval_shape(_network(variant=v).init, jax.random.key(0), images) for v in (*VARIANTS, "paper+widths")
    }
    assert shapes["paper+widths"] == shapes["released"] != shapes["paper"]
    params = _init(_network(variant="paper+biases"), images)
    for width in (384, 256, 128):
        bias = params["ladder"]["propagation"][f"bias{(384, 256, 128).index(width) + 1}"]
        assert 0.9 * np.sqrt(3 / width) < np.abs(bias).max() <= np.sqrt(3 / width)

    def output_and_loss(choice, params=params):
        model = _network(variant=f"paper+{choice}")
        output = model.apply({"params": params}, images)
        return output, model.loss(output, labels)

    plain, plain_loss = output_and_loss("biases")  # of which only the first values differ
    rectified, _ = output_and_loss("rectified")
    assert plain.kept.min() < 0 <= rectified.kept.min()

    twice = {**params, "ladder": {**params["ladder"]}}
    for name in ("propagation_kernel", "propagation_bias"):
        twice["ladder"][name] = 2 * params["ladder"][name]
    unit, unit_twice = (output_and_loss("unit", p)[0].regressed for p in (params, twice))
    np.testing.assert_allclose(unit, unit_twice, atol=1e-6)
    assert np.abs(output_and_loss("biases", twice)[0].regressed - plain.regressed).max() > 1e-3

    distance, _ = output_and_loss("distance")
    mean_distance = np.linalg.norm(plain.regressed - plain.kept[:, None], axis=-1).mean(axis=-1)
    np.testing.assert_allclose(distance.error, mean_distance, atol=1e-6)
    np.testing.assert_allclose(distance.activity, np.exp(-5.12 * mean_distance), atol=1e-6)

    own, own_loss = output_and_loss("loss")
    code_loss = 1e-4 * capsules.code_loss(plain.code, plain.primary_activity)
    np.testing.assert_allclose(own.activity, 1 - plain.error, atol=1e-6)
    np.testing.assert_allclose(own_loss, capsules.released_loss(plain.error, labels) + code_loss, atol=1e-6)

    _, own_loss = output_and_loss("code_loss")
    own_code_loss = 1e-4 * capsules.released_code_loss(plain.code, plain.primary_activity)
    np.testing.assert_allclose(own_loss, plain_loss - code_loss + own_code_loss, atol=1e-6)


def test_initial_scale_is_glorot_s_of_one_class_network():
    model = LadderLayer(classes=10)
    params = _init(model, jnp.zeros((1, 20, 8)), jnp.zeros((1, 100)))
    fans = {
        ("propagation", "kernel1"): (100, 384),
        ("propagation", "kernel3"): (256, 128),
        ("contribution", "kernel4"): (20, 20),
        ("propagation_kernel",): (128, 20 * 128),
        ("regression_kernel",): (128, 20 * 128),
    }
    for path, (fan_in, fan_out) in fans.items():
        leaf = params
        for name in path:
            leaf = leaf[name]
        limit = np.sqrt(6 / (fan_in + fan_out))
        assert 0.97 * limit < np.abs(leaf).max() <= limit, path
        np.testing.assert_allclose(np.std(leaf), limit / np.sqrt(3), rtol=0.05)
    released = _init(LadderLayer(classes=10, variant="released"), jnp.zeros((1, 20, 8)), jnp.zeros((1, 100)))
    bias = released["regression"]["bias2"]
    assert 0.97 * np.sqrt(3 / 256) < np.abs(bias).max() <= np.sqrt(3 / 256)


@pytest.mark.parametrize(
    "setting, image, conv1, primary, grid, n",
    [
        ("MNIST", 28, 9, 9, 6, 1152),
        ("MNIST", 28, 9, 15, 3, 288),
        ("affNIST", 40, 9, 9, 12, 4608),
        ("affNIST", 40, 15, 15, 6, 1152),
    ],
)
def test_geometry_of_the_paper(setting, image, conv1, primary, grid, n):
    sizes = geometry(image, conv1, primary)
    assert (sizes.grid, sizes.capsules) == (grid, n), setting


def test_an_image_too_small_is_refused_with_what_would_do():
    with pytest.raises(ValueError, match=r"16x16 .*9x9 and 9x9: image_size must be at least 17.*at most 17"):
        geometry(16, 9, 9)
    assert geometry(17, 9, 9).grid == 1
    with pytest.raises(ValueError, match="at least 17"):
        _network().init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))


def test_k_and_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="k=73 of n=72"):
        _network(k=73).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="paper, released, or paper with any of .rectified, .*got 'final'"):
        _network(variant="final").init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="agreement, length, got 'lenght'"):
        _network(activity="lenght").init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="active, balanced, biased, random, got 'Active'"):
        _network(selection="Active").init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="got 'paper.squashed'"):
        LadderLayer(3, variant="paper+squashed").init(jax.random.key(0), jnp.zeros((1, 5, 8)), jnp.zeros((1, 9)))


def test_bfloat16_computes_nearly_the_same_with_float32_outputs():
    images = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    full, half = _network(k=72), _network(k=72, dtype=jnp.bfloat16)  # all kept: no choice can flip
    params = _init(full, images)
    chex.assert_trees_all_equal_dtypes(params, _init(half, images))
    expected, got = (jax.jit(lambda p, m=m: m.apply({"params": p}, images))(params) for m in (full, half))
    assert got.activity.dtype == got.pose.dtype == got.primary_activity.dtype == jnp.float32
    np.testing.assert_allclose(got.activity, expected.activity, atol=2e-2)
    assert not np.array_equal(got.activity, expected.activity)


def test_primary_capsules_are_eight_consecutive_channels_of_a_position():
    """A channel's bias must reach one dimension of one type of capsule, at every position."""
    model = _network()
    images = jnp.zeros((1, 28, 28, 1))
    params = _init(model, images)["primary_capsules"]
    params["primary"]["bias"] = params["primary"]["bias"].at[8 + 3].set(1.0)
    t = PrimaryCapsules(channels=6, types=2).apply({"params": params}, images)
    expected = np.zeros((6, 6, 2, 8))
    expected[:, :, 1, 3] = 1
    np.testing.assert_allclose(t[0], expected.reshape(-1, 8), atol=1e-6)
