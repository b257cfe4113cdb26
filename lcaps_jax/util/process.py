"""What an entry point sets up in its process: the allocator, the cache of compiled programs, and what it prints."""

import ctypes
import importlib.util
import io
import os
import pathlib
import pkgutil
import sys
from typing import TextIO

import jax

from lcaps_jax.util import devices


def prepare() -> None:
    """Sets the process up. An entry point calls this before anything else."""
    reuse_freed_memory()
    _compile_fast_for_cuda()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # another place to keep compiled programs between runs
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "lcaps_jax" / "programs"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if devices.is_main():
        write_line(text)


def write_line(text: str, file: TextIO | None = None) -> None:
    """Prints a line, with backslashes for what the terminal cannot show; where nobody reads any more, does nothing."""
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
    except BrokenPipeError:  # as behind | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _compile_fast_for_cuda() -> None:
    """Has XLA leave matrix products to cuBLAS where JAX is installed for CUDA, unless ``XLA_FLAGS`` decides.

    Otherwise XLA compiles each of a step's 37 products in dozens of ways by Triton (``docs/how_to/gpu.md``).
    """
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins.submodule_search_locations if plugins else None
    has_cuda = any(module.name.startswith("xla_cuda") for module in pkgutil.iter_modules(places or []))
    given, triton = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_enable_triton_gemm"
    if has_cuda and triton not in given:
        os.environ["XLA_FLAGS"] = f"{given} {triton}=false".strip()


def reuse_freed_memory() -> None:
    """Makes glibc keep freed memory, so that work on large arrays is faster. Without glibc it does nothing.

    By default glibc maps and unmaps each large temporary array, and the page faults can take longer than the arithmetic
    (``docs/explanation/performance.md``). Call it before JAX looks for devices, whose threads keep their arenas.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX of malloc.h.
    for parameter, value in ((-4, 0), (-1, -1), (-2, 2**28), (-8, 1)):
        mallopt(parameter, value)
