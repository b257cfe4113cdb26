"""The fuzz benchmark in small: no damaged input ends in a traceback, and the benchmark would see one."""

import sys

from absl import flags
import pytest

from benchmarks import fuzz
from lcaps_jax.config import ConfigError


@pytest.mark.slow
def test_damaged_inputs_are_done_or_refused_in_one_line():
    before = set(flags.FLAGS)
    counts = fuzz.fuzz(40, 10, 4, 1, seed=2)
    assert {kind: sum(outcomes.values()) for kind, outcomes in counts.items()} == {
        "image files": 40, "flag lines": 10, "run folders": 4, "trainings": 1, "evaluations and reports": 4
    }  # fmt: skip
    assert all(counts["image files"][outcome] > 5 for outcome in (fuzz.DONE, fuzz.REFUSED))
    assert counts["trainings"][fuzz.DONE] and counts["evaluations and reports"][fuzz.DONE]
    assert set(flags.FLAGS) == before and not {"eval", "train"} & set(sys.modules)


def test_what_the_benchmark_takes_for_a_traceback():
    def ending(error):
        def entry_point(argv):
            raise error

        return entry_point

    assert fuzz.called(lambda argv: None, []) == fuzz.DONE
    assert fuzz.called(ending(ConfigError("no")), []) == fuzz.REFUSED
    assert fuzz.called(lambda argv: None, ["--no_such_flag=1"]) == fuzz.REFUSED
    assert fuzz.called(ending(MemoryError("10 TiB")), []) == fuzz.REFUSED
    for error in (KeyError("k"), ConfigError("two\nlines")):
        with pytest.raises(AssertionError):
            fuzz.called(ending(error), [])
