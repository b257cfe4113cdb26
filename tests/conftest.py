"""Two virtual CPU devices for every test, and the fast allocator, as the entry points have it.

XLA optimizes little: compiling is most of what the tests wait for, and a tiny network is fast enough anyway.
"""

import gc
import os
import pathlib
import subprocess
import sys
import tempfile

# Before JAX starts, and inherited by the entry points that tests run as subprocesses.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"lcaps_jax_tests_{os.getuid()}")
)

from absl import flags
import jax
import pytest

from lcaps_jax.util import process
from lcaps_jax.util.files import locked
import workloads

os.environ["XLA_FLAGS"] = workloads.xla_flags(devices=2)
process.prepare()
flags.FLAGS(["pytest"])  # chex's variants read flags


# Linux gives a process 65,530 memory maps at most, and each program that XLA compiles for a CPU takes a dozen or more.
# When none is left, the process ends with a segmentation fault.
_MOST_MAPS = 30_000


@pytest.fixture(autouse=True)
def forget_programs():
    """Forgets the compiled programs after a test where there are many."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run of the tiny network, made by train.py: its folder and what was printed."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # one run for all processes of pytest-xdist
    workdir, printed = shared / "tiny", shared / "tiny.txt"
    with locked(shared / "tiny.lock", seconds=300):
        if not printed.exists():
            printed.write_text(workloads.train(workdir).stdout)
    return workdir, printed.read_text()


@pytest.fixture
def run_python():
    """Runs code in a new process with another number of devices."""

    def run(code: str, *arguments: str, devices: int):
        env = {**os.environ, "XLA_FLAGS": workloads.xla_flags(devices)}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=workloads.REPOSITORY, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
