"""What the profile of a step reads off a compiled program, and that every part of a real one is found."""

import pytest

from benchmarks import step_profile
import workloads

_PROGRAM = """
HloModule jit_step

%fused (p.0: f32[10,4], p.1: f32[4,6]) -> f32[10,6] {
  %p.0 = f32[10,4]{1,0} parameter(0)
  %p.1 = f32[4,6]{1,0} parameter(1)
  ROOT %dot.1 = f32[10,6]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%sliced (p.2: f32[100,8], p.3: s32[]) -> f32[1,8] {
  %p.2 = f32[100,8]{1,0} parameter(0)
  %p.3 = s32[] parameter(1)
  ROOT %dynamic-slice.1 = f32[1,8]{1,0} dynamic-slice(%p.2, %p.3, %p.3), dynamic_slice_sizes={1,8}
}

ENTRY %main (a: f32[10,4], b: f32[4,6], c: f32[100,8], i: s32[]) -> f32[10,6] {
  %a = f32[10,4]{1,0} parameter(0)
  %b = f32[4,6]{1,0} parameter(1)
  %c = f32[100,8]{1,0} parameter(2)
  %i = s32[] parameter(3)
  %row = f32[1,8]{1,0} fusion(%c, /*index=1*/%i), kind=kLoop, calls=%sliced, metadata={op_name="jit(f)/update/add"}
  %held = f32[4,6]{1,0} copy(%b)
  ROOT %y = f32[10,6]{1,0} fusion(%a, %held), kind=kCustom, calls=%fused, metadata={op_name="jvp(N)/ladder/dot"}
}
"""


def test_arithmetic_and_bytes_of_ops():
    program = step_profile.Program(_PROGRAM)
    assert program.flop("y") == 2 * 10 * 4 * 6 and program.bytes("y") == 4 * (10 * 4 + 4 * 6 + 10 * 6)
    assert program.flop("row") == 0 and program.bytes("row") == 4 * (8 + 8 + 1)  # of c one row
    parts = {name: program.ops[name].part for name in ("y", "row", "held")}
    assert parts == {"y": "class networks, ladder", "row": step_profile.STATE, "held": step_profile.STATE}


@pytest.mark.parametrize(
    "model, own",
    [("lcapsnet", "class networks, ladder"), pytest.param("capsnet", "routing, decoder", marks=pytest.mark.slow)],
)
def test_every_part_of_a_step_is_found(model, own):
    settings = {"model": model, "channels": 16, "k": 5 if model == "lcapsnet" else None}
    measured = step_profile.measure(workloads.tiny_config(**settings))
    others = {"class networks, ladder", "routing, decoder"} - {own}
    parts = measured["parts"]
    assert set(parts) == {*step_profile.PARTS, step_profile.REST} - others
    assert all(part["bytes"] > 0 for part in parts.values())
    assert all(parts[name]["flop"] > 0 for name in [*[*step_profile.PARTS][:4], own])
    now = {model: {**measured, "matmul_seconds": 0.1}}
    slower = {name: {**part, "seconds": 2 * part["seconds"]} for name, part in parts.items()}
    before = {model: {**measured, "parts": slower, "seconds_of_ops": 2 * measured["seconds_of_ops"]}}
    said = [text.get_text().split() for text in step_profile.draw(now, before).axes[0].texts]
    totals = {words[0]: int(words[1]) for words in said if len(words) == 2}
    assert set(totals) == {"before", "now"} and abs(totals["before"] - 2 * totals["now"]) <= 1
