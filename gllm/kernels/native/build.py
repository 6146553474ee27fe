"""Compiles the C files beside this one for the processor at hand, once, into the user's cache.

Knows nothing of what they compute, nor how they are called.
"""

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILE_TIMEOUT_S = 120
# No -ffast-math: NaN and infinity must stay what they are, and sums in their order.
FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-w",
)


class BuildError(Exception):
    """There is no compiler, or it failed; the message is one sentence."""


def built() -> Path:
    """The shared library of these sources for this processor, compiled if it is not there yet.

    Raises `BuildError`, or `OSError` where no directory can be written.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    path = shutil.which(compiler[0])
    if path is None:
        raise BuildError(f"there is no C compiler {compiler[0]!r}: install gcc or clang, or set CC")
    sources = sorted(HERE.glob("*.c"))
    key = hashlib.sha256(repr((compiler, path, FLAGS, _processor())).encode())
    for source in (*sources, *sorted(HERE.glob("*.h"))):
        key.update(source.read_bytes())
    library = _directory() / f"cpu-{key.hexdigest()[:24]}.so"
    if not library.exists():
        _compile([path, *compiler[1:]], sources, library)
    return library


def _compile(compiler: list[str], sources: list[Path], library: Path) -> None:
    """Into a file of another name first: another process may be doing the same."""
    with tempfile.NamedTemporaryFile(dir=library.parent, suffix=".so", delete=False) as made:
        command = [*compiler, *FLAGS, *map(str, sources), "-o", made.name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            Path(made.name).unlink()
            raise BuildError(f"{compiler[0]} took more than {COMPILE_TIMEOUT_S} s") from None
        if done.returncode:
            Path(made.name).unlink()
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BuildError(f"{compiler[0]} failed: {last[:300]}")
    Path(made.name).replace(library)


def _directory() -> Path:
    """A directory that is this user's alone, since what lies there is loaded as code: in the user's cache, or
    where that cannot be written among temporary files."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(base) / "gllm"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(directory)
    except (OSError, RuntimeError):  # the latter is Path.home's, for a user whom the system does not know
        directory = Path(tempfile.gettempdir()) / f"gllm-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BuildError(f"{directory} is open to others: make it a directory of yours alone (chmod 700)")
    return directory


def _processor() -> str:
    """What -march=native depends on: a home directory may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    kept = ("vendor_id", "cpu family", "model\t", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(kept))


def main() -> int:
    """Compile ahead of the first start; where that cannot be, the first start says so again."""
    try:
        built()
    except (BuildError, OSError) as error:
        print(f"the CPU operators in C are not compiled, torch's serve: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
