"""What this process may use of its host: cores and memory, with the limits of its control groups.

A container's limit is often far below what the machine has. Knows nothing of what is done with it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def usable_cores(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Cores of this process's affinity, at most its CPU quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    for directory in _groups("cpu", proc, cgroup):
        limit = _numbers(directory / "cpu.max") or (
            _numbers(directory / "cpu.cfs_quota_us") + _numbers(directory / "cpu.cfs_period_us")
        )
        quota, period = limit if len(limit) == 2 else (0, 0)
        if quota > 0 and period > 0:
            cores = min(cores, -(-quota // period))
    return max(cores, 1)


def free_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that this process can take without swapping or being killed."""
    (free,) = [
        int(line.split()[1]) * 1024
        for line in (proc / "meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    ]
    for directory in _groups("memory", proc, cgroup):
        for limit_file, usage_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _numbers(directory / limit_file), _numbers(directory / usage_file)
            if limit and usage:
                # Cached file pages count as used, but give way.
                free = min(free, limit[0] - usage[0] + _stat(directory / "memory.stat", cache))
    return max(free, 0)


def _groups(controller: str, proc: Path, cgroup: Path) -> Iterator[Path]:
    """The directories of this process's control groups that can limit `controller`, inner ones first.

    Version 2 has one tree, version 1 one a controller. In a container the path that the kernel tells
    may not exist; the root of the mount is then the group itself.
    """
    path = proc / "self" / "cgroup"
    for line in path.read_text().splitlines() if path.exists() else ():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root = cgroup
        elif controller in controllers.split(","):
            root = cgroup / controller
        else:
            continue
        group = root / name.lstrip("/")
        while group != root and root in group.parents:
            yield group
            group = group.parent
        yield root


def _numbers(path: Path) -> tuple[int, ...]:
    """The numbers of a one-line file; none if it is absent or says "max"."""
    try:
        return tuple(int(word) for word in path.read_text().split())
    except (OSError, ValueError):
        return ()


def _stat(path: Path, key: str) -> int:
    """The number behind `key` in a file of such pairs, 0 if absent."""
    try:
        words = path.read_text().split()
        return int(words[words.index(key) + 1])
    except (OSError, ValueError, IndexError):
        return 0
