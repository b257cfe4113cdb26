"""Settings: flags to Config to JSON and back, what is refused, and what may change when a run goes on."""

import dataclasses
import json
import pathlib

from absl import flags
import pytest

from lcaps_jax import config as config_lib
from lcaps_jax.config import Config, ConfigError
import workloads


def test_no_flag_is_defined_by_importing_the_library():
    assert "batch_size" not in flags.FLAGS


@pytest.fixture
def parse():
    values = flags.FlagValues()
    config_lib.define_flags(values)

    def parse(*arguments):
        values(["train.py", *arguments])
        return config_lib.from_flags(values)

    return parse


def test_flags_default_to_the_config_s_defaults(parse):
    assert parse() == Config()


def test_flags_become_settings(parse):
    config = parse(
        "--k=50", "--variant=released", "--noshuffle", "--eval_datasets=mnist,sample", "--learning_rate=0.01"
    )
    assert (config.k, config.variant, config.shuffle, config.learning_rate) == (50, "released", False, 0.01)
    assert config.eval_datasets == ("mnist", "sample")


@pytest.mark.parametrize(
    "flagfile", sorted((workloads.REPOSITORY / "configs").glob("*.flags")), ids=lambda path: path.stem
)
def test_every_flagfile_parses_and_says_what_it_reaches(parse, flagfile):
    lines = flagfile.read_text().splitlines()
    said = " ".join(line[2:] for line in lines if line.startswith("# "))
    assert lines[0].startswith("# ")
    name = {
        "ablation": "ablation_whole",
        "affnist_15x15_k70_released": "ablation_released_full_size_shuffled",
        "mnist_own_k70": "ablation_own_k70",
        "mnist_own_capsnet": "ablation_own_capsnet",
    }.get(flagfile.stem, flagfile.stem)
    results = workloads.REPOSITORY / "docs" / "results" / name / "results.json"
    if results.exists():
        errors = [f"{result['error']:.2f}" for result in json.loads(results.read_text()).values()]
        assert [error for error in errors if error not in said] == [] and "minutes" in said
    elif flagfile.stem != "mnist_small":  # its results are not kept here
        assert "Not run to its end yet: its error and its minutes will stand here." in said
    parse(*(line for line in lines if line.startswith("--") and not line.startswith("--workdir")))


def test_json_round_trip(tmp_path):
    config = workloads.tiny_config(eval_datasets=("sample", "mnist"))
    about = {"class_names": ["a", "b"], "channels": 1, "train_images": 7}
    config_lib.write_config(tmp_path, config, about)
    assert config_lib.read_config(tmp_path) == (config, about)


@pytest.mark.parametrize(
    "damage, message",
    [
        ({"channels": "1"}, "cannot read .*channels is '1'"),
        ({"train_images": None}, "train_images is None"),
        ({"class_names": ["a", 2]}, "class_names is"),
        ({"settings": []}, "the settings are no object"),
        ({"settings": {"k": "5"}}, "The run's k is '5': the settings are damaged, or of another version"),
        ({"settings": {"shuffle": 1}}, "The run's shuffle is 1"),
        ({"settings": {"eval_datasets": [1]}}, r"The run's eval_datasets is \[1\]"),
    ],
)
def test_a_damaged_config_is_refused_by_what_is_wrong(tmp_path, damage, message):
    about = {"settings": {}, "class_names": ["a", "b"], "channels": 1, "train_images": 7}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert config_lib.read_config(tmp_path)[0] == Config(eval_every=1, layers="paper", ground="kept")
    (tmp_path / "config.json").write_text(json.dumps(about | damage))
    with pytest.raises(ConfigError, match=message):
        config_lib.read_config(tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model": "resnet"}, r"model=resnet: must be one of lcapsnet"),
        ({"variant": "final"}, r"variant must be one of paper, released, or paper with any of \+rect"),
        ({"precision": "float16"}, r"precision=float16: must be one of float32, bfloat16"),
        ({"k": 0}, r"k=0: must be at least 1"),
        ({"batch_size": 0}, r"batch_size=0: must be at least 1"),
        ({"epochs": -1}, r"epochs=-1"),
        ({"seed": 2**31}, r"seed=2147483648: must be at most 2147483647"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0: must be positive"),
        ({"learning_rate": float("nan")}, r"learning_rate=nan"),
        ({"decay_rate": 1.5}, r"decay_rate=1.5: must be above 0 and at most 1"),
        ({"flip": "left"}, r"flip=left: must be one of none, horizontal, vertical, both"),
        ({"max_rotation": 181.0}, r"max_rotation=181.0: must be at most 180"),
        ({"max_scale": 0.5}, r"max_scale=0.5: must be at least 1"),
        ({"max_brightness": -0.1}, r"max_brightness=-0.1: must be at least 0"),
        ({"image_size": 16}, r"16x16 .* at least 17"),
        ({"image_size": 17, "k": 33}, r"k=33 of n=32"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"model": "capsnet", "variant": "released"},
            "variant=released: does nothing to the network capsnet; .*lcapsnet",
        ),
        ({"model": "cnn", "k": 5}, "k=5: does nothing to the network cnn"),
        ({"model": "lcapsnet", "decoder": False}, "decoder=False: does nothing to the network lcapsnet; .* of capsnet"),
    ],
)
def test_settings_of_another_network_do_nothing_and_are_refused_in_new_runs(settings, message):
    config = Config(**settings)
    with pytest.raises(ConfigError, match=message):
        config.check_settings_are_used()
    assert config.without_unused() == Config(model=config.model)
    config.check_continues(config.without_unused(), pathlib.Path("run"))  # nothing that is computed would change


def test_k_too_large_for_the_data_s_own_size_is_refused():
    with pytest.raises(ConfigError, match="k=1153 of n=1152"):
        Config(k=1153).resolved(28, 0)


@pytest.mark.parametrize(
    "images, settings, expected",
    [
        # As ever: MNIST, the sample, the sample less what is held out.
        (60_000, {}, (100, 10, 1000, 1)),
        (8_000, {}, (100, 10, 1000, 1)),
        (None, {}, (100, 10, 1000, 1)),
        (5_000, {}, (100, 10, 1000, 1)),
        (60_000, {"epochs": 100}, (100, 100, 1000, 1)),
        # Small sets: 800 steps, over which the learning rate falls twenty times.
        (4_999, {}, (100, 17, 41, 1)),
        (1_000, {}, (50, 40, 40, 2)),
        (144, {}, (20, 115, 40, 5)),
        (144, {"epochs": 10}, (20, 10, 40, 1)),
        (144, {"batch_size": 72}, (72, 400, 40, 20)),
        (31, {}, (20, 800, 40, 40)),
        (7, {}, (6, 800, 40, 40)),  # on two devices
        (144, {"decay_steps": 5, "eval_every": 3}, (20, 115, 5, 3)),
    ],
)
def test_batch_epochs_decay_and_evaluations_follow_from_the_number_of_images(images, settings, expected):
    config = Config(**settings).resolved(28, 0, images)
    assert (config.batch_size, config.epochs, config.decay_steps, config.eval_every) == expected


def test_a_run_of_before_there_was_such_a_setting_is_evaluated_after_each_epoch():
    settings = workloads.tiny_config().to_json()
    del settings["eval_every"]
    assert Config.from_json(settings).eval_every == 1


_SMALL_LADDER = {"channels": 64, "capsule_types": 16, "capsule_dim": 4, "operators": "capsule", "selection": "balanced"}


@pytest.mark.parametrize(
    "settings, image_size, expected",
    [
        ({}, 32, {**_SMALL_LADDER, "k": 192}),  # a fifth of 8x8 positions, of each of 16 types
        ({"frame": "affine"}, 100, {**_SMALL_LADDER, "k": 112}),  # of the 6x6 positions of a picture of 28 pixels
        ({}, 18, {**_SMALL_LADDER, "k": 16}),
        ({"model": "capsnet"}, 32, {"channels": 64, "capsule_types": 16, "capsule_dim": 4, "k": 70}),
        ({"model": "cnn"}, 32, {"channels": 32, "capsule_types": 32}),
        ({"layers": "small", "k": 32}, 32, {**_SMALL_LADDER, "k": 32}),
        ({"dataset": "sample", "layers": "small"}, 32, {**_SMALL_LADDER, "k": 192}),
    ],
)
def test_few_images_of_one_s_own_get_small_layers(settings, image_size, expected):
    config = Config(**{"dataset": "folder", **settings}).resolved(image_size, 0, 4_999)
    assert config.layers == "small"
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    "settings, images",
    [
        ({"dataset": "folder"}, 5_000),
        ({"dataset": "folder"}, None),
        ({"dataset": "folder", "layers": "paper"}, 100),
        ({"dataset": "folder", "conv1_kernel": 5}, 100),
        ({"dataset": "folder", "model": "cnn", "channels": 8}, 100),
        ({"dataset": "sample"}, 100),
    ],
)
def test_other_sets_and_whoever_sets_something_of_the_network_get_the_paper_s_layers(settings, images):
    config = Config(**settings)
    resolved = config.resolved(32, 0, images)
    assert resolved.layers == "paper"
    for name in ("channels", "capsule_types", "capsule_dim", "k", "operators", "selection"):
        assert getattr(resolved, name) == getattr(config, name)


def test_a_size_of_the_layers_that_is_given_at_its_default_is_still_given(parse):
    assert parse("--dataset=folder", "--k=70").layers == "paper"
    assert parse("--dataset=folder", "--model=cnn", "--seed=0").layers is None


def test_a_run_with_small_layers_goes_on_by_the_same_command_and_an_older_one_keeps_the_paper_s():
    command, folder = Config(dataset="folder"), pathlib.Path("runs/mine")
    begun = command.resolved(32, 0, 180)
    again = command.with_defaults_of(begun)
    again.check_continues(begun, folder)
    assert again.resolved(32, 0, 180) == begun
    with pytest.raises(ConfigError, match="layers=paper: .*layers=small"):
        dataclasses.replace(command, layers="paper").with_defaults_of(begun).check_continues(begun, folder)
    settings = Config(dataset="folder").resolved(32, 0).to_json()  # as every run of before
    del settings["layers"]
    older = Config.from_json(settings)
    assert command.with_defaults_of(older).resolved(32, 0, 180).k == older.k == 70


def test_a_folder_s_images_are_seen_without_their_ground_and_others_and_older_runs_with_it():
    assert Config(dataset="folder").resolved(32, 0, 10_000).ground == "removed"
    assert Config(dataset="folder", ground="kept").resolved(32, 0, 180).ground == "kept"
    assert Config(dataset="mnist").resolved(28, 0, 100).ground == "kept"
    settings = Config(dataset="folder").resolved(32, 0).to_json()
    del settings["ground"]
    assert Config.from_json(settings).ground == "kept"


def test_what_may_change_when_a_run_goes_on():
    earlier, folder = workloads.tiny_config(), pathlib.Path("runs/mine")
    for changes in (
        {"epochs": 3},
        {"log_every": 5},
        {"checkpoint_every": 7},
        {"eval_datasets": ("mnist",)},
        {"data_dir": "d"},
    ):
        dataclasses.replace(earlier, **changes).check_continues(earlier, folder)
    for name, value in (("k", 6), ("seed", 1), ("learning_rate", 0.1), ("dataset", "mnist"), ("precision", "bfloat16")):
        with pytest.raises(
            ConfigError, match=rf"{name}={value}: the run in runs/mine .*{name}={getattr(earlier, name)}.*workdir"
        ):
            dataclasses.replace(earlier, **{name: value}).check_continues(earlier, folder)
    with pytest.raises(ConfigError, match=r"epochs=1: .*2 epochs.*only grow"):
        dataclasses.replace(earlier, epochs=1).check_continues(earlier, folder)


def test_an_empty_list_of_test_sets_is_the_default(parse):
    assert parse("--eval_datasets=").eval_datasets is None


def test_open_settings_follow_the_run_that_goes_on():
    earlier = workloads.tiny_config(max_shift=2)
    assert Config(**workloads.TINY).with_defaults_of(earlier) == earlier


def test_a_folder_that_is_no_run_and_a_newer_version(tmp_path):
    with pytest.raises(ConfigError, match="is not a run of lcaps_jax"):
        config_lib.read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="is not a run of lcaps_jax"):
        config_lib.read_config(pathlib.Path(tmp_path))
    with pytest.raises(ConfigError, match="another version: it has the settings routing_depth"):
        Config.from_json({**Config().to_json(), "routing_depth": 3})


@pytest.mark.parametrize(
    "text, expected",
    [
        ("--data_dir='a b'\n--k=\"5\"\n", {"data_dir": "a b", "k": 5}),
        ("\ufeff--k=5\r\n  # a comment\n\n// another\n--learning_rate=0.01 \n", {"k": 5, "learning_rate": 0.01}),
        ("--data_dir='a\n", {"data_dir": "'a"}),  # half a pair is no pair
        ("--data_dir=a 'b' c\n", {"data_dir": "a 'b' c"}),
    ],
)
def test_lines_of_a_flagfile_are_taken_as_meant(tmp_path, text, expected):
    path = tmp_path / "my.flags"
    path.write_text(text, encoding="utf-8", newline="")
    read = config_lib.from_flagfile(path)
    assert {name: getattr(read, name) for name in expected} == expected
    (tmp_path / "outer.flags").write_text(f"--epochs=3\n--flagfile='{path}'\n")
    outer = config_lib.from_flagfile(tmp_path / "outer.flags")
    assert outer == dataclasses.replace(read, epochs=3)


def test_flagfiles_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "my.flags"
    path.write_bytes("--k=5\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"flagfile=.*my\.flags: cannot be read as text in UTF-8"):
        config_lib.from_flagfile(path)
    path.write_text(f"--flagfile={path}\n")
    with pytest.raises(ConfigError, match=r"flagfile=.*my\.flags: is named inside itself"):
        config_lib.from_flagfile(path)


def test_shifts_that_would_move_an_image_out_of_itself_are_refused():
    assert Config(max_shift=27).resolved(28, 0).max_shift == 27
    with pytest.raises(ConfigError, match="max_shift=28: would move the content out of images of 28 pixels; it must"):
        Config(max_shift=28).resolved(28, 0)
    with pytest.raises(ConfigError, match="images of 28 pixels"):
        Config(max_shift=30, frame="affine").resolved(100, 0)
