"""Settings: flags to ``Config`` to JSON and back, and what is refused by its name and value."""

import json
import math

from absl import flags
import pytest

from lcaps_jax.cli.flags import define_training, given
from lcaps_jax.train.config import Config, declared_settings
from lcaps_jax.train.recipe import Facts, resolve
from lcaps_jax.util.errors import ConfigError


def _parse(*arguments):
    values = flags.FlagValues()
    define_training(values)
    values(["train.py", *arguments])
    return given(values)


def test_no_flag_is_defined_by_importing_the_library():
    assert "batch_size" not in flags.FLAGS


def test_flags_are_settings_and_those_that_are_not_given_are_no_settings():
    assert _parse() == {}
    settings = _parse("--k=50", "--noshuffle", "--eval_datasets=mnist,sample", "--lr=0.01", "--ladder=per_capsule")
    assert settings == {
        "k": 50, "shuffle": False, "eval_datasets": ["mnist", "sample"], "learning_rate": 0.01, "ladder": "per_capsule"
    }  # fmt: skip
    config = Config.from_settings(settings)
    assert config.data.shuffle is False and config.optimizer.learning_rate == 0.01
    assert config.network.network.pruning.k == 50 and config.evaluation.eval_datasets == ("mnist", "sample")


@pytest.mark.parametrize("settings", [
    {}, {"model": "capsnet", "decoder": False}, {"model": "cnn"}, {"frame": "centre", "frame_size": 20, "k": 5},
    {"ladder": "per_capsule", "pruning": "top_k_per_type", "k": 64, "background": "distance"},
])  # fmt: skip
def test_settings_survive_json(settings):
    config = Config.from_settings(settings, classes=3)
    stored = json.loads(json.dumps(config.settings))
    assert settings.items() <= stored.items() and config.network.network.clone() == config.network.network
    assert Config.from_settings(stored, classes=3) == config != Config.from_settings({**stored, "seed": 1}, classes=3)


@pytest.mark.parametrize("settings, limit", [
    ({"routing_depth": 3}, "setting"), ({"model": "resnet"}, "lcapsnet"), ({"model": "nowhere.py:Net"}, "nowhere.py"),
    ({"preset": "final"}, "released"), ({"preset": "released", "model": "cnn"}, "paper"),
    # Limits.
    ({"dtype": "float16"}, "bfloat16"), ({"flip": "left"}, "horizontal"), ({"k": 0}, "1"), ({"epochs": -1}, "1"),
    ({"seed": 2**31}, "2147483647"), ({"learning_rate": 0.0}, "above 0"), ({"learning_rate": math.nan}, "finite"),
    ({"max_scale": math.inf}, "finite"), ({"decay_rate": 1.5}, "1"), ({"stop_at_error": 100.0}, "below 100"),
    ({"max_rotation": 181.0}, "180"), ({"max_brightness": -0.1}, "0"), ({"affnist_variants": 33}, "32"),
    # Types.
    ({"k": "5"}, "int"), ({"k": 5.0}, "int"), ({"shuffle": 1}, "bool"), ({"batch_size": True}, "int"),
    ({"eval_datasets": [1]}, "names"), ({"eval_datasets": "mnist"}, "names"),
    # What does not fit the images or other settings.
    ({"k": 1153}, "1152"), ({"image_size": 16}, "17"), ({"max_shift": 28}, "28"),
    ({"max_shift": 28, "frame": "affine", "image_size": 100}, "28"),
    ({"stop_at_error": 1.0, "eval_datasets": ["mnist"]}, "sample"),
    # What does nothing.
    ({"k": 5, "model": "cnn"}, "cnn"), ({"decoder": False}, "lcapsnet"), ({"frame_size": 20}, "Frame"),
    ({"squared_distance": False, "ladder": "per_capsule"}, "LadderLayer"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name_value_and_limit(settings, limit):
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigError) as caught:
        resolve(settings, Facts("sample", 8000, settings.get("image_size", 28)), 10)
    assert f"{name}={value}" in str(caught.value) and limit in str(caught.value)


def test_a_setting_has_one_type_and_one_limit_wherever_it_is_declared():
    """Layers share some settings, of which the command line has one flag."""
    for name, owners in declared_settings().items():
        for each in owners[1:]:
            assert type(each.default) is type(owners[0].default), name
            assert {**each.metadata, "help": ""} == {**owners[0].metadata, "help": ""}, name
