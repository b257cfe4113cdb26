"""The paper's Table 3: the time of a training step."""

import json

from benchmarks import step_time, timing
from experiments.output import write_table
from experiments.plan import Plan
from lcaps_jax.runtime import say


def run(plan: Plan) -> None:
    """Times a training step of L-CapsNet and CapsNet in one process; ``step_time.json`` has the raw times."""
    output = plan.workdir / "step_time.json"
    if plan.train:
        timing.write(output, step_time.measure(list(step_time.TABLE3), iterations=10 if plan.quick else 100))
    elif not output.exists():
        say("table3: not timed yet.")
        return
    cases = json.loads(output.read_text())["cases"]
    rows = [
        {
            "network": name,
            "ms an iteration (s.e.)": f"{1e3 * case['mean']:.0f} ({1e3 * case['standard_error_over_calls']:.0f})",
            "paper, ms": f"{1e3 * case['paper_seconds']:.0f}",
        }
        for name, case in cases.items()
    ]
    write_table(plan.workdir, "table3", rows)
