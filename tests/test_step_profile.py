"""What the profile of a step reads off a compiled program, and that every part of a real one is found."""

import pytest

from benchmarks import step_profile, timing
import workloads

_PROGRAM = """
HloModule jit_step

%fused (p.0: f32[10,4], p.1: f32[4,6]) -> f32[10,6] {
  %p.0 = f32[10,4]{1,0} parameter(0)
  %p.1 = f32[4,6]{1,0} parameter(1)
  ROOT %dot.1 = f32[10,6]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[10,4], b: f32[4,6]) -> f32[10,6] {
  %a = f32[10,4]{1,0} parameter(0)
  %b = f32[4,6]{1,0} parameter(1)
  %held = f32[4,6]{1,0} copy(%b)
  %row = f32[4,6]{1,0} add(%b, %held), metadata={op_name="jit(f)/update/add"}
  ROOT %y = f32[10,6]{1,0} fusion(%a, %row), kind=kCustom, calls=%fused, metadata={op_name="jvp(N)/ladder/dot"}
}
"""


def test_arithmetic_and_parts_of_ops():
    program = step_profile.Program(_PROGRAM)
    assert program.flop("y") == 2 * 10 * 4 * 6 and program.flop("row") == 0
    parts = {name: program.ops[name].part for name in ("y", "row", "held")}
    assert parts == {"y": "class networks, ladder", "row": step_profile.STATE, "held": step_profile.STATE}


@pytest.mark.parametrize(
    "model, own",
    [("lcapsnet", "class networks, ladder"), pytest.param("capsnet", "routing, decoder", marks=pytest.mark.slow)],
)
def test_every_part_of_a_step_is_found(model, own):
    settings = {**workloads.TINY, "model": model, "filters": 16, "convolution": "auto"}
    if model == "capsnet":
        del settings["k"]
    measured = step_profile.measure(timing.configured(settings))
    parts = measured["parts"]
    others = {"class networks, ladder", "routing, decoder"} - {own}
    assert set(parts) == {*step_profile.PARTS, step_profile.REST} - others
    assert all(parts[name]["flop"] > 0 for name in [*[*step_profile.PARTS][:4], own])
    drawn = step_profile.draw({model: measured}).axes[0].texts
    assert round(1e3 * measured["seconds_of_ops"]) in [int(text.get_text()) for text in drawn]
