"""Kills a small training at random moments, tries the faults of files, folders and machines, and counts both.

    python -m benchmarks.faults               # --kills=0 leaves the kills out

Half of the kills (``kill -9``) come at a random moment after the start, half while a checkpoint is being written. Every
restart must continue from the newest checkpoint on disk, and the run must end with the parameters and the log of one
that was never interrupted, bit for bit.

The faults of people's files, folders and machines are tried by those tests that show them, and the pure functions by
made-up inputs.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

from absl import logging
import jax
import numpy as np

from benchmarks import timing
from lcaps_jax import runs
from lcaps_jax.training import read_metrics

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_EVERY = 25
_SETTINGS = {
    "channels": 8,
    "capsule_types": 2,
    "k": 5,
    "capsule_dim": 4,
    "pose_dim": 4,
    "batch_size": 20,
    "epochs": 8,
    "log_every": 5,
    "checkpoint_every": _EVERY,
}
# The latest moment of a random kill, in seconds after the first logged step.
_LATEST = 6.0
_LOGGED = ("step", "epoch", "split", "loss", "error")
# Faults of people's files, folders and machines, and the tests that show what becomes of each.
FAULTS = {
    "a folder that Orbax would take for a pattern, or a save that cannot be read back": (
        "tests/test_runs.py::test_a_folder_that_orbax_would_take_for_a_pattern_is_refused_before_any_work",
        "tests/training/test_loop.py::test_a_run_whose_last_state_cannot_be_read_back_is_not_called_saved",
    ),
    "a test set whose classes have other names or another order": (
        "tests/test_runs.py::test_labels_are_matched_by_the_names_of_the_classes",
        "tests/test_runs.py::test_a_test_set_that_does_not_fit_the_network_is_refused",
    ),
    "a relative folder of data, used from elsewhere": (
        "tests/test_runs.py::test_a_relative_folder_of_data_is_kept_as_it_was_meant",
    ),
    "other training images when a run goes on": (
        "tests/test_runs.py::test_a_run_goes_on_with_the_images_that_it_was_begun_with_alone",
    ),
    "dark ink on light paper, for a network of white on black": (
        "tests/data/test_pictures.py::test_a_digit_on_paper_becomes_one_of_mnist_s",
        "tests/data/test_pictures.py::test_images_on_another_ground_are_told_from_those_of_the_set",
        "tests/data/test_folder.py::test_test_images_on_paper_are_inverted_and_counted_apart",
        "tests/views/test_classify.py::test_files_on_another_ground_are_pointed_out_unless_they_are_inverted",
        "tests/test_pretrained.py::test_ink_on_paper_is_read_by_the_shipped_network",
        "tests/test_runs.py::test_test_sets_on_another_ground_are_pointed_out",
    ),
    "a drawing, for a network of other images than MNIST's": (
        "tests/views/test_demo.py::test_a_drawing_becomes_what_the_run_s_own_images_are",
        "tests/views/test_demo.py::test_a_drawing_is_dark_on_light_where_the_run_s_images_are",
    ),
    "files of 12 and 16 bits, transparent, of the other polarity, or with a palette; sets all of one value": (
        "tests/data/test_pictures.py::test_sixteen_bits_that_hold_eight_are_read_as_eight",
        "tests/data/test_pictures.py::test_colours_of_16_bits_that_hold_8_are_refused_and_not_read_as_black",
        "tests/data/test_pictures.py::test_where_the_smallest_number_is_white",
        "tests/data/test_pictures.py::test_twelve_bits_are_read_over_their_range",
        "tests/data/test_pictures.py::test_transparent_images_lie_on_a_ground_that_shows_their_ink",
        "tests/data/test_pictures.py::test_a_palette_of_greys_is_grey",
        "tests/data/test_folder.py::test_the_file_that_makes_a_grey_set_coloured_is_named",
        "tests/data/test_folder.py::test_training_images_that_cannot_be_told_apart_are_refused",
    ),
    "labels of another shape or type": (
        "tests/test_capsules.py::test_labels_of_another_shape_or_type_are_refused",
        "tests/networks/test_networks.py::test_labels_of_another_shape_are_refused_by_every_network",
    ),
    "image files that cannot be read, and odd or damaged metadata": (
        "tests/data/test_pictures.py::test_orientation_is_read_in_whatever_form",
        "tests/data/test_pictures.py::test_a_tiff_is_turned_once",
        "tests/data/test_pictures.py::test_whatever_pillow_raises_is_one_line_about_the_file",
        "tests/data/test_pictures.py::test_faults_are_noted_when_the_rest_is_wanted",
        "tests/data/test_folder.py::test_what_cannot_be_used_is_named",
        "tests/data/test_folder.py::test_with_keep_going_the_rest_is_read_and_the_others_are_listed",
        "tests/views/test_classify.py::test_with_keep_going_files_that_cannot_be_read_are_listed",
    ),
    "a file system without locks, and locks that others keep": (
        "tests/test_locks.py::test_a_lock_is_held_by_one_and_waiting_has_a_limit_and_a_line",
        "tests/test_locks.py::test_where_there_are_no_locks_a_line_says_so_and_all_goes_on",
        "tests/data/test_data.py::test_a_set_that_another_process_prepares_is_waited_for",
    ),
    "more images, or a larger batch, than fit in memory at once": (
        "tests/test_run.py::test_a_run_gives_the_network_s_output_whatever_the_number",
        "tests/views/test_robustness.py::test_errors_are_computed_batch_by_batch",
        "tests/training/test_loop.py::test_an_evaluation_computes_no_more_than_the_set_has",
    ),
    "long strips and images of too many pixels": (
        "tests/data/test_data.py::test_a_strip_is_scaled_before_it_gets_its_borders",
        "tests/data/test_pictures.py::test_a_file_with_too_many_pixels_is_refused_by_its_header",
    ),
    "a run in a folder that cannot be written": (
        "tests/views/test_classify.py::test_labels_do_not_wait_for_pictures_that_cannot_be_written",
    ),
    "names that are not UTF-8, or alike but for their Unicode form": (
        "tests/data/test_folder.py::test_names_of_classes_are_utf_8_in_one_normal_form",
        "tests/views/test_classify.py::test_a_file_whose_name_is_not_utf_8_is_named_and_drawn",
    ),
    "sets with a test part alone, with a validation part, or in other colours than the network's": (
        "tests/data/test_folder.py::test_a_test_part_needs_no_other",
        "tests/data/test_data.py::test_a_test_part_needs_no_training_part",
        "tests/data/test_folder.py::test_a_folder_beside_train_is_the_validation_part",
        "tests/test_runs.py::test_test_images_get_the_channels_of_the_network",
    ),
    "TensorBoard's events cut off by a kill": (
        "tests/training/test_metric_log.py"
        "::test_tensorboard_has_what_the_log_has_when_a_run_is_killed_and_when_it_goes_on",
    ),
    "flags that do nothing, flagfiles as editors write them, damaged results, a reader that has gone": (
        "tests/test_faults.py::test_a_comma_in_a_new_run_s_path_is_refused",
        "tests/test_faults.py::test_damaged_results_are_named",
        "tests/test_faults.py::test_a_training_whose_reader_has_gone_goes_on",
        "tests/test_config.py::test_settings_of_another_network_do_nothing_and_are_refused_in_new_runs",
        "tests/test_config.py::test_shifts_that_would_move_an_image_out_of_itself_are_refused",
        "tests/test_config.py::test_lines_of_a_flagfile_are_taken_as_meant",
        "tests/test_config.py::test_flagfiles_that_cannot_be_read_are_named",
        "tests/test_entry_points.py::test_what_eval_says_of_its_flags",
        "tests/data/test_folder.py::test_a_share_held_out_that_is_far_from_a_fifth_is_said",
    ),
    "arrays and files classified by programs": (
        "tests/test_run.py::test_predictions_are_names_activities_and_poses",
        "tests/test_run.py::test_images_that_cannot_be_predicted_are_refused",
        "tests/views/test_classify.py::test_programs_get_one_record_a_file",
        "tests/test_entry_points.py::test_a_newcomer_classifies_a_file_with_the_packaged_network",
    ),
    "a network where this package is not": (
        "tests/test_deployment.py::test_every_network_is_exported_for_any_number_of_images",
        "tests/test_deployment.py::test_the_page_s_lines_run_a_network_where_the_package_is_not",
    ),
}


def _start(workdir: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "train.py", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in _SETTINGS.items())]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _checkpoints(workdir: pathlib.Path) -> tuple[list[int], bool]:
    """The steps of the finished checkpoints, and whether one is being written."""
    folder = workdir / "checkpoints" / "last"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit()), any("tmp" in name for name in names)


def _made_up_inputs() -> int:
    """Tries made-up inputs on the pure functions by ``tests/test_properties.py``, and returns how many there were."""
    command = [sys.executable, "-m", "pytest", "-n0", "tests/test_properties.py", "--hypothesis-show-statistics"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return sum(map(int, re.findall(r"(\d+) passing, 0 failing", done.stdout)))


def _passed(tests: Iterable[str]) -> Counter[str]:
    """Runs tests, and returns how many inputs of each passed; none may fail."""
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-n0", f"--junitxml={results}", *tests]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        cases = ElementTree.parse(results).iter("testcase")
        passed = [case for case in cases if case.find("skipped") is None]
    return Counter(
        f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].split('[')[0]}" for case in passed
    )


def tried() -> dict[str, int]:
    """How many tests and inputs of tests passed for each of ``FAULTS``."""
    passed = _passed(test for tests in FAULTS.values() for test in tests)
    counts = {fault: sum(passed[test] for test in tests) for fault, tests in FAULTS.items()}
    assert all(counts.values()), f"nothing was tried of some faults: {counts}"
    return counts


def _last_step(workdir: pathlib.Path) -> int:
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def _kill(process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random, in_a_save: bool) -> bool:
    """Kills the process at its moment, and returns whether it was alive until then."""
    before = _last_step(workdir)
    delay = rng.uniform(0, _LATEST)
    if rng.random() < 0.2:  # while it starts
        time.sleep(delay)
    else:
        while process.poll() is None and _last_step(workdir) <= before:
            time.sleep(0.02)
        deadline = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        while in_a_save and process.poll() is None and not _checkpoints(workdir)[1]:
            time.sleep(0.0002)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    return alive


def _killed(wanted: int, seed: int) -> dict:
    """Kills trainings so many times, and returns what was counted.

    Raises:
      AssertionError: A training did not go on as it should have.
    """
    rng = random.Random(seed)
    kills = in_saves = restarts = most_lost = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "whole"
        print(_start(whole).communicate()[0].splitlines()[-1], flush=True)
        number = 0
        while kills < wanted:
            number += 1
            workdir = pathlib.Path(folder) / f"killed{number}"
            saved = last = 0
            while True:
                process = _start(workdir)
                done = False
                if kills < wanted:
                    done = not _kill(process, workdir, rng, in_a_save=kills % 2 == 1)
                output = process.communicate()[0]
                match = re.search(r"(?:Training|Continuing) from step (\d+)", output)
                if match:
                    restarts += 1
                    assert int(match[1]) == saved, f"{match[0]}, with a checkpoint of step {saved} on disk"
                    most_lost = max(most_lost, last - saved)
                if process.returncode == 0:
                    break
                assert process.returncode == -signal.SIGKILL, output
                assert not done, output
                steps, half_written = _checkpoints(workdir)
                saved, last = max(steps, default=0), max(_last_step(workdir), saved)
                kills += 1
                in_saves += half_written
                print(f"kill {kills}: at step {last}, {saved} saved{', in a save' if half_written else ''}", flush=True)
            one, two = runs.load_run(whole), runs.load_run(workdir)
            jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
            logs = [[[line[key] for key in _LOGGED] for line in read_metrics(run)] for run in (whole, workdir)]
            assert logs[0] == logs[1], "the log differs from that of the uninterrupted run"
    return {
        "kills": kills,
        "while_a_checkpoint_was_half_written": in_saves,
        "restarts": restarts,
        "runs": number,
        "checkpoint_every": _EVERY,
        "most_steps_to_do_again": most_lost,
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="Number of kills; 0 leaves them out.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments.")
    parser.add_argument("--output", default="benchmarks/results/faults.json", help="JSON file to write.")
    given = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # because Orbax tells every step of its own
    if given.kills > 0:
        killed = _killed(given.kills, given.seed)
        header = ("kills survived", "of them in a save", "runs ended the same", "most steps to do again")
        names = ("kills", "while_a_checkpoint_was_half_written", "runs", "most_steps_to_do_again")
        print(timing.table(header, [tuple(killed[name] for name in names)]), flush=True)
        timing.write(given.output, killed, part="kills")
    began = time.monotonic()
    counts, made_up = tried(), _made_up_inputs()
    rows = [*counts.items(), ("made-up inputs of the pure functions", made_up)]
    print(timing.table(("fault", "tests and inputs that passed"), rows))
    print(f"{sum(counts.values())} tests and inputs passed, of {len(counts)} kinds of faults.")
    metrics = {"faults": counts, "made_up_inputs": made_up, "seconds": time.monotonic() - began}
    timing.write(given.output, metrics, part="inputs")


if __name__ == "__main__":
    main()
