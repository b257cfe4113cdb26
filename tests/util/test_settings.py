"""Every setting has help and a default that it accepts, and flat settings and built networks are the same."""

import itertools

import pytest

from lcaps_jax.nn import NETWORKS, Preprocessed, build_network
from lcaps_jax.nn.ladder import LadderCapsNet, LadderLayer, PerCapsuleLadder
from lcaps_jax.nn.preprocess import AffineFrame, CentreFrame
from lcaps_jax.ops import frames
from lcaps_jax.train.config import Config, declared_settings
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import build, declared, flatten


def test_every_setting_has_help_and_accepts_its_default():
    for each in declared(Config):
        assert each.metadata["help"].endswith("."), each.name
        each.check(each.default)


def test_settings_of_one_name_are_the_same_to_a_flag():
    """A flag has one type, default and range, whichever layer it belongs to."""
    for name, owners in declared_settings().items():
        assert (
            len({(each.default, *(each.metadata[k] for k in ("minimum", "maximum", "choices"))) for each in owners})
            == 1
        ), name


@pytest.mark.parametrize("name, preset", [*itertools.product(NETWORKS, ["paper", "small"]), ("lcapsnet", "released")])
def test_a_network_is_built_again_from_its_settings(name, preset):
    network = build_network(name, preset=preset)
    for frame, background in ((None, None), (CentreFrame(), frames.subtract_background), (AffineFrame(32), None)):
        whole = Preprocessed(network=network, frame=frame, background=background)
        flat = flatten(whole)
        assert flat["model"] == name
        assert build(Preprocessed, flat) == whole
        assert Config.from_settings(flat).network == whole


def _other(each):
    """Another value that a setting accepts."""
    if each.metadata["choices"]:
        return next(choice for choice in each.metadata["choices"] if choice != each.default)
    if isinstance(each.default, bool | str | tuple):
        return {bool: not each.default, str: "other", tuple: ("other",)}[type(each.default)]
    for value in (each.default + 1, each.default / 2):
        try:
            each.check(value)
        except ConfigError:
            continue
        return value
    raise AssertionError(each.name)


def test_every_setting_reaches_its_field_and_comes_back():
    for each in declared(Config):
        value = _other(each)
        each.check(value)
        built = build(each.owner, {each.name: value})
        assert flatten(built)[each.name] == value, each.name
        assert built != each.owner(), each.name


def test_a_choice_brings_its_own_settings():
    generated, per_capsule = (build(LadderCapsNet, {"ladder": ladder}) for ladder in ("generated", "per_capsule"))
    assert type(generated.ladder) is LadderLayer and type(per_capsule.ladder) is PerCapsuleLadder
    assert set(flatten(generated)) - set(flatten(per_capsule)) >= {"ascending_widths", "class_activity"}


@pytest.mark.parametrize(
    "name, value",
    [
        *(("k", value) for value in (0, 2**31, 5.0, True, "5")),
        *(("learning_rate", value) for value in (0.0, float("nan"), "fast")),
        *(("decay_rate", 1.1), ("stop_at_error", 100), ("ladder", "own"), ("shuffle", 1)),
        *(("eval_datasets", "mnist"), ("data_dir", None)),
    ],
)
def test_values_beyond_the_limits_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name}={value}: must be "):
        declared_settings()[name][0].check(value)
