"""The recipe: what follows from the data where the user gives nothing."""

import pytest

from lcaps_jax.train.recipe import Facts, recipe, resolve
from lcaps_jax.util.errors import ConfigError


def _schedule(images, given, devices=1):
    settings = {**recipe(Facts("sample", images, 28, devices=devices), given), **given}
    return tuple(settings[name] for name in ("batch_size", "epochs", "decay_steps", "eval_every"))


@pytest.mark.parametrize("images, given, expected", [
    (60_000, {}, (100, 10, 1000, 1)), (8_000, {}, (100, 10, 1000, 1)), (5_000, {}, (100, 10, 1000, 1)),
    (60_000, {"epochs": 100}, (100, 100, 1000, 1)),
    # Small sets: 800 steps, over which the learning rate decays twenty times.
    (4_999, {}, (100, 17, 41, 1)), (1_000, {}, (50, 40, 40, 2)), (144, {}, (20, 115, 40, 5)),
    (31, {}, (20, 800, 40, 40)), (144, {"epochs": 10}, (20, 10, 40, 1)), (144, {"batch_size": 72}, (72, 400, 40, 20)),
    (144, {"decay_steps": 5, "eval_every": 3}, (20, 115, 5, 3)),
])  # fmt: skip
def test_batch_epochs_decay_and_evaluations_follow_from_the_number_of_images(images, given, expected):
    assert _schedule(images, given) == expected


@pytest.mark.parametrize("images, devices, batch", [(7, 2, 6), (1, 1, 1), (144, 8, 24), (60_000, 8, 104)])
def test_the_batch_divides_among_the_devices(images, devices, batch):
    assert _schedule(images, {}, devices)[0] == batch


def test_the_recipe_is_pure_and_leaves_what_was_given():
    given = {"k": 32, "preset": "small", "epochs": 3, "max_shift": 1, "eval_datasets": ["mnist"], "background": "kept"}
    before, facts = dict(given), Facts("folder", 180, 32)
    chosen = recipe(facts, given)
    assert chosen == recipe(facts, given) and given == before and not set(chosen) & set(given)
    config, stored = resolve(given, facts, 3)
    assert stored == chosen and {**given, **chosen}.items() <= config.settings.items()


_SMALL = {"preset": "small", "filters": 64, "capsule_types": 16, "capsule_dim": 4}
_SMALL_LADDER = {**_SMALL, "ladder": "per_capsule", "pruning": "top_k_per_type"}
_PAPER = {"preset": "paper", "filters": 256, "capsule_types": 32, "k": 70, "ladder": "generated", "pruning": "top_k"}


@pytest.mark.parametrize("given, image_size, expected", [
    ({}, 32, {**_SMALL_LADDER, "k": 192}),  # a fifth of 8x8 positions, of each of 16 types
    ({"frame": "affine"}, 100, {**_SMALL_LADDER, "k": 112}),  # of 6x6 positions of 28 pixels
    ({"seed": 1}, 18, {**_SMALL_LADDER, "k": 16}), ({"preset": "small", "k": 32}, 32, {**_SMALL_LADDER, "k": 32}),
    ({"model": "capsnet"}, 32, _SMALL), ({"model": "cnn"}, 32, {"preset": "small", "filters": 32}),
    ({"dataset": "sample", "preset": "small"}, 32, {**_SMALL_LADDER, "k": 192}),
])  # fmt: skip
def test_few_images_of_your_own_get_small_layers(given, image_size, expected):
    config, _ = resolve({"dataset": "folder", **given}, Facts(given.get("dataset", "folder"), 4_999, image_size), 10)
    assert expected.items() <= config.settings.items()


@pytest.mark.parametrize(
    "given, images",
    [
        ({}, 5_000),
        ({"preset": "paper"}, 100),
        ({"k": 70}, 100),
        ({"conv1_kernel": 9}, 100),
        ({"dataset": "sample"}, 100),
    ],
)
def test_other_sets_and_users_who_set_something_of_the_network_get_the_paper_s_layers(given, images):
    """Also where a setting is given with its default."""
    config, _ = resolve({"dataset": "folder", **given}, Facts(given.get("dataset", "folder"), images, 32), 10)
    assert _PAPER.items() <= config.settings.items()


def test_the_released_preset_departs_from_the_paper_and_what_is_given_stays():
    config, _ = resolve({"preset": "released", "code_loss": "sum", "k": 50}, Facts("mnist", 60_000, 28), 10)
    expected = {"class_loss": "released", "class_activity": "complement", "rectify": True, "squared_distance": False,
                "shuffle": False, "code_loss": "sum", "k": 50}  # fmt: skip
    assert expected.items() <= config.settings.items()
    with pytest.raises(ConfigError, match="preset=released"):
        resolve({"preset": "released", "model": "capsnet"}, Facts("mnist", 60_000, 28), 10)


def test_preprocessing_and_test_sets_follow_from_the_data():
    folder, digits = Facts("folder", 10_000, 32), Facts("expanded_mnist", 60_000, 40, max_shift=6)
    assert recipe(folder, {})["background"] == "subtracted" and recipe(folder, {})["image_size"] == 32
    chosen = recipe(digits, {})
    assert (chosen["background"], chosen["max_shift"], chosen["eval_datasets"]) == ("kept", 6, ["expanded_mnist"])
    assert recipe(digits, {"frame": "affine"})["max_shift"] == 0  # which a canonical frame would undo
