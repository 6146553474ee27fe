"""What `--record` costs the scheduler: microseconds a step and an event, bytes, and a new part.

    python -m bench.recording [--json] [--batch 256] [--steps 2000]

The core runs alone, once bare and once recorded into a real file, with all sequences in decode.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from gllm.protocol.messages import Sampling, StepResult, Submit, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.journal import Journal
from gllm.scheduler.policy import Fcfs
from gllm.scheduler.record import Recorder
from gllm.scheduler.snapshot import restore, snapshot

PROMPT = 1000
REPEATS = 5


def make_core(batch: int) -> Scheduler:
    num_pages = batch * 400
    worker = WorkerReady(1, num_pages, 16, batch, 1 << 20, 1 << 15, 1 << 15)
    return Scheduler(Limits(batch, 1 << 20, 1 << 15, 1 << 30, 2, True), Fcfs(), worker)


def request(number: int, max_tokens: int) -> Submit:
    prompt = column(range(number, number + PROMPT))
    return Submit(number, prompt, [], Sampling(0.0, 0, 1.0, 0), max_tokens, column(), 1, 0, 0.0, "")


def submit_us(core: Scheduler | Recorder, batch: int, max_tokens: int) -> float:
    requests = [request(number, max_tokens) for number in range(batch)]
    began = time.perf_counter()
    for each in requests:
        core.submit(b"frontend", each, 0.0)
    return (time.perf_counter() - began) / batch * 1e6


def step_us(core: Scheduler | Recorder, batch: int, num_steps: int) -> float:
    """Of plan and commit in decode, the least of some repeats."""
    tokens = column([7]) * batch

    def step() -> None:
        plan = core.plan(0.0)
        assert plan is not None
        core.commit(StepResult(1, plan.step, tokens, 10**15, 10**15 + 1, 0), 0.0)

    step()  # the prompts
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(num_steps // REPEATS):
            step()
        times.append((time.perf_counter() - began) / (num_steps // REPEATS) * 1e6)
    return min(times)


def measure(batch: int, num_steps: int) -> dict[str, Any]:
    max_tokens = num_steps + 10
    bare = make_core(batch)
    bare_submit = submit_us(bare, batch, max_tokens)
    bare_step = step_us(bare, batch, num_steps)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.glr"
        recorder = Recorder(make_core(batch), Journal(file, 1 << 33, 1))
        recorded_submit = submit_us(recorder, batch, max_tokens)
        before = recorder._journal._num_queued_bytes
        recorded_step = step_us(recorder, batch, num_steps)
        num_bytes = recorder._journal._num_queued_bytes - before
        began = time.perf_counter()
        state = snapshot(recorder.core)
        snapshot_ms = (time.perf_counter() - began) * 1e3
        began = time.perf_counter()
        recorder._begin_part()
        part_ms = (time.perf_counter() - began) * 1e3
        began = time.perf_counter()
        restore(state)
        restore_ms = (time.perf_counter() - began) * 1e3
        part_bytes = recorder._journal._first_bytes
        recorder.close()
    return {
        "bare_step_us": round(bare_step, 1),
        "recorded_step_us": round(recorded_step, 1),
        "step_cost_us": round(recorded_step - bare_step, 1),
        "event_cost_us": round((recorded_step - bare_step) / 3, 1),  # asked, planned, committed
        "submit_cost_us": round(recorded_submit - bare_submit, 1),
        "bytes_a_step": round(num_bytes / num_steps),
        "snapshot_ms": round(snapshot_ms, 1),
        "new_part_ms": round(part_ms, 1),
        "new_part_bytes": part_bytes,
        "restore_ms": round(restore_ms, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    report = {
        "bench": "recording",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "batch": given.batch,
        "prompt_tokens": PROMPT,
        **measure(given.batch, given.steps),
    }
    if given.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
