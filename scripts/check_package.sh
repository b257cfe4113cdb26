#!/usr/bin/env bash
# Builds the package, and tries it where a user has it: beside jax, flax, numpy and etils alone, outside the repository.
# Runs in an environment with requirements.txt.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 JAX_PLATFORMS=cpu

echo "-- build"
# A copy: setuptools would leave build/ and *.egg-info in the repository, and take files from those of earlier builds.
mkdir "$work/source"
tar -C "$repository" --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./build --exclude='*.egg-info' -c . |
  tar -C "$work/source" -x
if ! python -m build --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1; then
  cat "$work/build.log"
  exit 1
fi
wheel=$(echo "$work"/dist/*.whl)
sdist=$(echo "$work"/dist/*.tar.gz)

echo "-- what the files hold"
python - "$wheel" "$sdist" "$work/source" <<'PY'
import pathlib, re, sys, tarfile, zipfile

DATA = {
    "lcaps_jax/infer/weights/mnist_framed.npz", "lcaps_jax/infer/weights/mnist_small.npz", "lcaps_jax/py.typed",
    "lcaps_jax/data/sample.npz", "lcaps_jax/apps/network.png", "lcaps_jax/apps/report.html",
}
BESIDE = {"README.md", "LICENSE", "requirements.txt", "requirements/layers.txt", "train.py", "configs/quickstart.flags"}
with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = set(wheel.namelist())
    metadata = wheel.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
with tarfile.open(sys.argv[2]) as sdist:
    in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
source = pathlib.Path(sys.argv[3])
modules = {path.relative_to(source).as_posix() for path in source.glob("lcaps_jax/**/*.py")}
tests = {path.relative_to(source).as_posix() for path in source.glob("tests/**/*.*") if path.suffix in (".py", ".npz")}
for where, expected, found in (
    ("wheel", modules | DATA, names),
    ("source distribution", modules | DATA | BESIDE | tests, in_sdist),
):
    assert expected <= found, f"not in the {where}: {', '.join(sorted(expected - found))}"
foreign = {name.split("/")[0] for name in names if ".dist-info/" not in name} - {"lcaps_jax"}
assert not foreign, f"in the wheel, and no part of the package: {sorted(foreign)}"
needs = [line for line in re.findall(r"^Requires-Dist: (.*)", metadata, re.MULTILINE) if "extra ==" not in line]
assert {re.match(r"[\w-]+", line)[0] for line in needs} == {"jax", "flax", "numpy", "etils"}, needs
extras = set(re.findall(r"^Provides-Extra: (.*)", metadata, re.MULTILINE))
assert extras == {"train", "demo", "docs", "dev"}, extras
print(f"{len(modules)} modules, {len(DATA)} data files; without extras it needs {', '.join(sorted(needs))}.")
PY

echo "-- install the wheel"
python -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "$wheel"

# README.md's own network, as the README has it.
python - "$repository/README.md" >"$work/snippet.py" <<'PY'
import pathlib, re, sys

blocks = re.findall(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), re.DOTALL)
[snippet] = [block for block in blocks if "class MyCapsNet" in block]
print(snippet)
PY

cat >"$work/imports.py" <<'PY'
"""Prints the seconds that lcaps_jax takes beyond jax and flax, and refuses what only training or looking needs."""
import sys, time

import jax, flax

before = set(sys.modules)
start = time.perf_counter()
import lcaps_jax

seconds = time.perf_counter() - start
# The difference: some versions of jax and flax load one or another of these by themselves.
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
unwanted = loaded & {"orbax", "tensorflow", "tensorflow_datasets", "tensorboardX", "matplotlib", "scipy", "PIL"}
assert not unwanted, f"import lcaps_jax loads {', '.join(sorted(unwanted))}"
print(seconds)
PY

try() { # with the interpreter and the options that are given
  "$@" -c "from lcaps_jax import LadderLayer"
  "$@" "$work/snippet.py"
  for _ in 1 2 3 4 5; do "$@" "$work/imports.py"; done >"$work/seconds"
  python - "$work/seconds" <<'PY'
import pathlib, statistics, sys

seconds = statistics.median(map(float, pathlib.Path(sys.argv[1]).read_text().split()))
print(f"The README's network runs; import lcaps_jax takes {seconds:.2f} s beyond jax and flax.")
assert seconds <= 0.3, "it may take 0.3 s"
PY
}
cd "$work" # outside the repository, whose lcaps_jax would be found first
try "$work/venv/bin/python"

echo "-- install the source distribution"
# With the dependencies of the wheel's environment, whose own lcaps_jax goes.
"$work/venv/bin/pip" uninstall --quiet --yes lcaps-jax
"$work/venv/bin/pip" install --quiet --no-deps "$sdist"
try "$work/venv/bin/python"
