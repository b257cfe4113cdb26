#!/usr/bin/env bash
# Runs the tests with the lowest versions that the requirements allow, and with the newest that there are.
#
#   scripts/check_versions.sh [LOWEST_PYTHON [NEWEST_PYTHON]]
#
# are the interpreters for the two, python3.11 and python3.13 where they are not given. Each run makes an environment of
# its own and takes as long as pytest does.
set -euo pipefail
lowest=${1:-python3.11}
newest=${2:-python3.13}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

for python in "$lowest" "$newest"; do # before the first of two long runs
  if ! "$python" -c "import venv" 2>/dev/null; then
    echo "There is no $python here, or it lacks venv. Name another: $0 [LOWEST_PYTHON [NEWEST_PYTHON]]" >&2
    exit 2
  fi
done

# A lower bound becomes the version itself: "jax>=0.10.2" is "jax==0.10.2". What has no bound stays free.
mkdir "$work/lowest" "$work/lowest/requirements"
cp requirements.txt "$work/lowest/"
for file in layers train dev; do sed 's/>=/==/' "requirements/$file.txt" >"$work/lowest/requirements/$file.txt"; done

run() { # name, interpreter, requirements
  echo "== $1 versions, $("$2" --version)"
  "$2" -m venv "$work/$1-venv"
  "$work/$1-venv/bin/pip" install --quiet -r "$3"
  "$work/$1-venv/bin/pip" freeze | grep -iE '^(jax|flax|optax|numpy|orbax-checkpoint|tensorflow[a-z_-]*)==' || true
  (
    export PATH="$work/$1-venv/bin:$PATH" XDG_CACHE_HOME="$work/$1-cache" JAX_COMPILATION_CACHE_DIR="$work/$1-programs"
    pytest
  )
}
run lowest "$lowest" "$work/lowest/requirements.txt"
run newest "$newest" requirements.txt
