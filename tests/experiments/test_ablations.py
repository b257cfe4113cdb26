"""The settings of the ablations."""

import dataclasses

from experiments import ablations
from experiments.plan import Plan


def test_each_ablation_changes_one_thing_and_fits_the_images(tmp_path):
    plan = Plan(tmp_path, quick=False, data_dir=None)
    settings = {name: changed.resolved(40, 6) for name, changed in ablations.settings(plan).items()}
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
