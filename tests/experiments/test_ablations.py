"""The settings of the ablations."""

import dataclasses
import json

from experiments import ablations
from experiments.plan import Plan, image_size
from lcaps_jax import runs
from lcaps_jax.training import plan_of


def test_each_ablation_changes_one_thing_and_fits_the_images(tmp_path):
    plan = Plan(tmp_path, quick=False, data_dir=None)
    settings = {
        name: changed.resolved(40, 6)
        for name, changed in ablations.settings(plan).items()
        if not ablations.ABLATIONS[name].asked
    }
    whole = settings.pop("whole")
    assert whole == plan.settings_of("ablation", seed=0).resolved(40, 6)
    # At full size: one schedule, so that nothing else differs but the layers.
    full, capsnet = settings.pop("full_size"), settings.pop("capsnet_full_size")
    assert dataclasses.replace(settings.pop("full_size_shift10"), max_shift=6) == full
    large = plan.settings_of("affnist_15x15_k70", seed=0).resolved(40, 6)
    assert dataclasses.replace(settings.pop("large_kernels_shift10"), max_shift=6) == large
    assert dataclasses.replace(capsnet, model="lcapsnet") == full
    whole_schedule = plan.settings_of("affnist_9x9_k70", seed=0).resolved(40, 6)
    assert dataclasses.replace(whole_schedule, epochs=5, decay_steps=600) == full
    stopped = plan.settings_of("affnist_capsnet_stopped", seed=0)
    assert dataclasses.replace(stopped, stop_at_error=0.0) == plan.settings_of("affnist_capsnet", seed=0)
    differ = {
        name: {key for key, value in changed.to_json().items() if value != whole.to_json()[key]}
        for name, changed in settings.items()
    }
    routing = {"model", "decoder"}  # the decoder is of no meaning to the ladder
    assert differ.pop("capsnet") == routing and differ.pop("capsnet_shift10") == routing | {"max_shift"}
    assert differ.pop("capsnet_two_types") == routing | {"capsule_types"}
    schedule = {"epochs", "decay_steps"}
    assert differ.pop("longer") == schedule and differ.pop("capsnet_longer") == routing | schedule
    for longer, short in (("longer", whole), ("capsnet_longer", settings["capsnet"])):  # it ends at the same rate
        assert settings[longer].epochs / short.epochs == settings[longer].decay_steps / short.decay_steps == 2
    assert all(len(keys) == 1 for keys in differ.values()), differ
    assert settings["no_pruning"].k == 6 * 6 * 16


def test_the_open_questions_change_what_they_ask_about(tmp_path):
    plan = Plan(tmp_path, quick=False, data_dir=None)
    asked = {name: one for name, one in ablations.settings(plan).items() if ablations.ABLATIONS[name].asked}
    differ = {}
    for name, one in asked.items():
        base = plan.settings_of(ablations.ABLATIONS[name].base, seed=0)
        resolved, whole = (each.resolved(image_size(each), 0).to_json() for each in (one, base))
        differ[name] = {key: value for key, value in resolved.items() if value != whole[key]}
    schedule = {"batch_size": 50, "epochs": 30, "decay_rate": 0.9, "decay_steps": 1000, "decay_staircase": True}
    balanced = {"selection": "balanced", "k": 64}
    assert differ == {
        "length": schedule,
        "capsnet_length": schedule,
        "length_mnist": schedule,
        "capsnet_full_size_shift10": {"max_shift": 10},
        "released_full_size": {"shuffle": False},
        "released_full_size_shuffled": {},
        "code_loss_full_size": {"variant": "paper+code_loss"},
        "balanced_mnist": balanced,
        "balanced": balanced,
        "shifted_mnist": {"max_shift": 2},
        "own_k70": {},
        "own_capsnet": {},
    }
    # Routing beside the ladder: the same images, convolutions and schedule.
    own, routing = (asked[name].resolved(28, 0) for name in ("own_k70", "own_capsnet"))
    same = {
        "dataset",
        "max_shift",
        "channels",
        "conv1_kernel",
        "conv2_kernel",
        "primary_kernel",
        "capsule_dim",
        "pose_dim",
    }
    same |= {"batch_size", "epochs", "learning_rate", "decay_rate", "decay_steps"}
    assert all(getattr(own, key) == getattr(routing, key) for key in same)
    # The graph beside the paper's formulas: the same images and schedule, in a new order each epoch.
    graph, formulas = (asked[name].resolved(40, 6) for name in ("released_full_size_shuffled", "length"))
    assert dataclasses.replace(graph, variant="paper") == formulas and graph.shuffle
    assert plan_of(asked["length"], 60_000).total_steps == 36_000
    assert ablations.settings(plan, seed=1)["length"] == dataclasses.replace(asked["length"], seed=1)


def test_open_questions_are_a_table_of_their_own_with_every_seed(tmp_path, monkeypatch, capsys):
    plan = Plan(tmp_path, quick=False, data_dir=None, train=False)
    there = [ablations.folder(plan, "shifted_mnist"), ablations.folder(plan, "shifted_mnist", seed=1)]
    monkeypatch.setattr(runs, "is_finished", lambda config, folder, archived: folder in there)
    result = {"error": 0.6, "ci95": [0.46, 0.77]}
    monkeypatch.setattr(runs, "read_results", lambda folder: {"mnist": result})
    ablations.run_questions(plan)
    rows = {row["network"]: row for row in json.loads((tmp_path / "questions.json").read_text())}
    assert len(rows) == 12 and (tmp_path / "questions.md").read_text() in capsys.readouterr().out
    errors = {name: row["mnist, % (95 % interval)"] for name, row in rows.items()}
    assert errors.pop("9x9, training digits shifted by up to 2 pixels") == ", ".join(2 * ["0.60 (0.46 to 0.77)"])
    assert set(errors.values()) == {""}
    ablations.run_questions(dataclasses.replace(plan, quick=True, workdir=tmp_path / "quick"))
    assert not (tmp_path / "quick").exists()
