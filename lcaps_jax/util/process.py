"""What an entry point sets up in its process: the allocator, the cache of compiled programs, and what it prints."""

from collections.abc import Iterator
import contextlib
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
    _keep_compiled_programs()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if devices.is_main():
        write_line(text)


def write_line(text: str, file: TextIO | None = None) -> None:
    """Prints a line. Where nobody reads any more, as behind ``| head``, the program goes on in silence.

    What the terminal cannot show, as the bytes of a file's name that are not UTF-8, is printed with backslashes.
    """
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


@contextlib.contextmanager
def messages_on_stderr() -> Iterator[TextIO]:
    """Gives standard output for records that a program reads; all that is said inside goes to standard error."""
    records = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield records


_TRITON = "--xla_gpu_enable_triton_gemm"


def _compile_fast_for_cuda() -> None:
    """Has XLA leave matrix products to cuBLAS where JAX is installed for CUDA, unless ``XLA_FLAGS`` decides.

    Otherwise XLA compiles each of a step's 37 products in dozens of ways by Triton (``docs/how_to/gpu.md``).
    """
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins.submodule_search_locations if plugins else None
    has_cuda = any(module.name.startswith("xla_cuda") for module in pkgutil.iter_modules(places or []))
    given = os.environ.get("XLA_FLAGS", "")
    if has_cuda and _TRITON not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_TRITON}=false".strip()


def _keep_compiled_programs() -> None:
    """Keeps compiled programs on disk between runs; JAX_COMPILATION_CACHE_DIR names another place for them."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "lcaps_jax" / "programs"))


# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def reuse_freed_memory() -> None:
    """Makes glibc keep freed memory, so that work on large arrays is faster. Without glibc it does nothing.

    By default glibc maps each large temporary array from the kernel and unmaps it after use, and the page faults can
    take longer than the arithmetic (``docs/explanation/performance.md``). Call it before JAX looks for devices, because
    the threads that JAX starts then keep their arenas.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 2**28)
    mallopt(_M_ARENA_MAX, 1)
