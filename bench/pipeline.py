"""How long the worker waits for its next plan, with one and with two plans in flight.

    python -m bench.pipeline [--json] [--batch 256] [--sleep-ms 2] [--steps 400] [--depths 1 2]

The real launcher and scheduler process run against `bench.sleeping_worker`; this process is the
frontend. Only steps in which every row decodes count.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import zmq

from gllm.config import from_options
from gllm.launch import OFFLINE, Deployment
from gllm.process import FRONTENDS
from gllm.protocol.channel import Channel, hello
from gllm.protocol.messages import Role, Sampling, SchedulerReady, Submit, Tokens
from gllm.protocol.wire import column


def idle_times_us(batch: int, sleep_ms: float, num_steps: int, depth: int) -> list[float]:
    """Microseconds that the worker waited before each full decode step."""
    config = from_options(
        model="unused",
        max_num_seqs=batch,
        max_num_batched_tokens=max(8 * batch, 1024),
        num_micro_batches=depth,
        log_level="warning",
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "idle.json"
        os.environ["GLLM_BENCH_SLEEP_MS"] = str(sleep_ms)
        os.environ["GLLM_BENCH_OUT"] = str(out)
        deployment = Deployment.start(config, OFFLINE, modules={Role.WORKER: "bench.sleeping_worker"})
        try:
            _feed(deployment.address(FRONTENDS), batch, num_steps)
        finally:
            deployment.stop()
        steps: list[tuple[int, int]] = json.loads(out.read_text())
    full = [idle / 1e3 for idle, rows in steps if rows == batch]
    return full[10:]  # the first ones still see prompts


def _feed(address: str, batch: int, num_steps: int) -> None:
    """Submit `batch` requests at once and read until all have ended."""
    with zmq.Context() as context:
        scheduler = Channel.connect(context, zmq.DEALER, address)
        scheduler.send(hello(Role.FRONTEND))
        assert isinstance(scheduler.receive(10), SchedulerReady)
        for request_id in range(batch):
            sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
            prompt = column(range(1, 9))
            scheduler.send(Submit(request_id, prompt, [], sampling, num_steps, column(), 1, 0, 0.0, ""))
        ended = 0
        while ended < batch:
            message = scheduler.receive(10)
            assert isinstance(message, Tokens), f"no tokens within 10 s, got {message!r:.80}"
            ended += len(message.finished)
        scheduler.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sleep-ms", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    report: dict[str, Any] = {
        "bench": "pipeline",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "batch": given.batch,
        "sleep_ms": given.sleep_ms,
        "idle_us_p50": {},
        "idle_us_p99": {},
    }
    for depth in given.depths:
        idle = idle_times_us(given.batch, given.sleep_ms, given.steps, depth)
        report["idle_us_p50"][str(depth)] = round(statistics.median(idle), 1)
        report["idle_us_p99"][str(depth)] = round(statistics.quantiles(idle, n=100)[98], 1)
    if given.json:
        print(json.dumps(report))
        return
    print(f"worker of {given.sleep_ms:g} ms a step, {given.batch} rows; {report['machine']}")
    print(f"{'plans in flight':>15} {'idle p50 (us)':>14} {'idle p99 (us)':>14}")
    for depth in given.depths:
        p50, p99 = (report[key][str(depth)] for key in ("idle_us_p50", "idle_us_p99"))
        print(f"{depth:>15} {p50:>14.1f} {p99:>14.1f}")


if __name__ == "__main__":
    main()
