"""The machine that is checked: its clock, and where the figures go. A dry run has a null device."""

import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton

GRAPH_SECONDS = 0.01  # device time that one replay should take, so that launching it does not count
MOST_LAUNCHES = 400  # in one graph
REPLAYS = 7
Item = TypeVar("Item")


class Machine:
    """A device, a clock and a file of JSON lines."""

    def __init__(self, *, is_dry: bool, out: Path, limit_s: float, share: tuple[int, int] = (0, 1)) -> None:
        self.is_dry = is_dry
        self.device = torch.device("cpu" if is_dry else "cuda")
        self.limit_s = limit_s
        self._share = share
        self.records: list[dict[str, Any]] = []
        self._ends_at = math.inf
        self._ceilings: dict[str, float] = {}
        out.mkdir(parents=True, exist_ok=True)
        self._file = (out / "device_check.jsonl").open("a")

    def description(self) -> dict[str, Any]:
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        if self.is_dry:
            return {"device": "none", **versions}
        properties = torch.cuda.get_device_properties(0)
        capability = f"{properties.major}.{properties.minor}"
        return {
            "device": properties.name,
            "capability": capability,
            **versions,
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
        }

    def emit(self, record: str, **fields: Any) -> None:
        """One JSON line, written through at once: the machine may go away at any time."""
        fields = {"record": record, **fields}
        self.records.append(fields)
        line = json.dumps(fields)
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()

    def start_part(self) -> None:
        self._ends_at = time.monotonic() + self.limit_s

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self._ends_at

    def attempt(self, name: str, measure: Callable[..., None], *arguments: Any) -> None:
        """Call `measure`; an error becomes a record, and a part that is late skips the rest."""
        if self.is_late:
            self.emit("skipped", name=name, reason=f"the part has used its {self.limit_s:.0f} s")
            return
        try:
            measure(*arguments)
        except Exception as error:
            self.emit("error", name=name, error=type(error).__name__, sentence=str(error)[:2000])
            if not self.is_dry:
                torch.cuda.empty_cache()

    def shared(self, items: list[Item]) -> list[Item]:
        """Those of `items` that are this process's: number I of N takes every N-th."""
        index, count = self._share
        return items[index::count]

    def synchronize(self) -> None:
        if not self.is_dry:
            torch.cuda.synchronize()

    def release(self) -> None:
        """What a part has left behind is another's to take."""
        gc.collect()
        if not self.is_dry:
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        return 1 << 28 if self.is_dry else int(torch.cuda.mem_get_info()[0])

    def time(self, calls: Sequence[Callable[[], object]], expected_s: float) -> float:
        """Median device seconds of one of `calls`, which are run in turn: give several on different data,
        or the cache is measured. They are replayed from a graph, so that launching does not count."""
        if self.is_dry:
            start = time.perf_counter()
            calls[0]()
            return time.perf_counter() - start
        self.warm_up(0.05)
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()
        passes = math.ceil(GRAPH_SECONDS / (expected_s * len(calls)))
        passes = max(1, min(passes, MOST_LAUNCHES // len(calls)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(passes):
                for call in calls:
                    call()
        graph.replay()
        torch.cuda.synchronize()
        seconds = []
        for _ in range(REPLAYS):
            start_event, end_event = (
                torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
                torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
            )
            start_event.record()
            graph.replay()
            end_event.record()
            end_event.synchronize()
            seconds.append(float(start_event.elapsed_time(end_event)) * 1e-3)
        return float(statistics.median(seconds) / (passes * len(calls)))

    def eager_time(self, call: Callable[[], object], repeats: int = 10) -> float:
        """Mean device seconds of `call`, launched as often as `repeats` says: for calls of milliseconds."""
        if self.is_dry:
            return self.time([call], 0.0)
        call()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / repeats

    def host_time(self, call: Callable[[], object], repeats: int = 100) -> float:
        """Median host seconds of `call`, which may leave work on the device."""
        seconds = []
        for _ in range(2 if self.is_dry else repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        self.synchronize()
        return statistics.median(seconds)

    def ceiling(self, name: str) -> float:
        """copy: bytes read and written a second; matmul: bf16 operations a second. Measured once, thrice
        after a warm-up, and the best of all ways to do it: a ceiling that is too low flatters."""
        if name not in self._ceilings:
            rates = {"copy": self._copy_rates, "matmul": self._matmul_rates}[name]()
            self._ceilings[name] = max(rates.values())
            self.emit("ceiling", name=name, per_second=self._ceilings[name], **rates)
        return self._ceilings[name]

    def _copy_rates(self) -> dict[str, float]:
        """A copy in a graph goes to the copy engines, which reach less than the multiprocessors do."""
        size = 1 << (16 if self.is_dry else 32)
        source = torch.randint(0, 127, (size // 4,), dtype=torch.int32, device=self.device)
        target = torch.empty_like(source)
        ways = {
            "copy_in_graph": partial(self.time, [lambda: target.copy_(source)], 2e-3),
            "copy": partial(self.eager_time, lambda: target.copy_(source)),
            "kernel": partial(self.time, [lambda: torch.bitwise_not(source, out=target)], 2e-3),
        }
        self.warm_up()
        return {name: 2 * size / min(measure() for _ in range(3)) for name, measure in ways.items()}

    def _matmul_rates(self) -> dict[str, float]:
        size = 64 if self.is_dry else 8192
        a, b = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(2))
        ways = {
            "graph": partial(self.time, [lambda: a @ b], 1.4e-3),
            "eager": partial(self.eager_time, lambda: a @ b),
        }
        self.warm_up()
        return {name: 2 * size**3 / min(measure() for _ in range(3)) for name, measure in ways.items()}

    def warm_up(self, seconds: float = 0.5) -> None:
        """Until an idle chip has raised its clocks."""
        size = 64 if self.is_dry else 4096
        a = torch.randn(size, size, device=self.device).bfloat16()
        start = time.monotonic()
        while time.monotonic() < start + (0 if self.is_dry else seconds):
            a @ a
            self.synchronize()
