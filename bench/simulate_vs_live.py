"""The simulator against reality: one trace served live over HTTP, and simulated with fitted costs.

    python -m bench.simulate_vs_live --trace FILE [--request-rate 6] [--num-prompts 200] [--json]

Step costs are fitted first (`bench.forward`, or `--cost FILE`), and the way from a client to the
scheduler and back is measured with lone requests. Then `gllm serve` and this client share the
machine; the worker gets `--num-threads` of its cores. What other processes take of the machine
meanwhile is reported: the simulator knows nothing of them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench.forward import measure
from gllm.config import DeploymentConfig, load
from gllm.simulate.cost import CostFile, read_costs
from gllm.simulate.engine import simulate
from gllm.simulate.prompts import Prompts
from gllm.simulate.report import Latencies, summary
from gllm.simulate.report import statistics as latency_statistics
from gllm.steps.shape import StepShape
from gllm.traces import Trace, read_trace

CONFIG = Path("configs/demo.yaml")
READY = "gLLM ready: "
LONE_REQUESTS = 25
LONE_PROMPT_TOKENS = 16
LONE_PAUSE_S = 0.1


@dataclass(slots=True)
class Answer:
    """When one request was sent and its text came, in seconds, and how many tokens it has."""

    sent: float
    events: list[float] = field(default_factory=list)
    num_tokens: int = 0


async def ask(address: tuple[str, int], model: str, prompt: "array[int]", num_tokens: int) -> Answer:
    """One streamed completion of exactly `num_tokens` tokens. HTTP by hand, for the client shares the
    cores with the server that it measures."""
    body = {
        "model": model,
        "prompt": prompt.tolist(),
        "max_tokens": num_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: {len(raw)}\r\n"
    )
    answer = Answer(time.perf_counter())
    reader, writer = await asyncio.open_connection(*address)
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + raw)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"the server answered {status + await reader.read()!r:.300}")
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        if b'"choices":[]' in line:
            answer.num_tokens = json.loads(line[6:])["usage"]["completion_tokens"]
        else:
            answer.events.append(time.perf_counter())
    writer.close()
    return answer


async def serve_trace(address: tuple[str, int], model: str, trace: Trace, prompts: Prompts) -> list[Answer]:
    """The trace's requests at their times."""
    began = time.perf_counter()

    async def one(number: int) -> Answer:
        request = trace.requests[number]
        await asyncio.sleep(began + request.arrival_s - time.perf_counter())
        return await ask(address, model, prompts.tokens(number), request.num_output_tokens)

    return await asyncio.gather(*map(one, range(len(trace.requests))))


async def lone_ttft(address: tuple[str, int], model: str, prompts: Prompts) -> float:
    """Median seconds to the first token of a short request that has the server for itself."""
    times = []
    for number in range(LONE_REQUESTS):
        await asyncio.sleep(LONE_PAUSE_S)
        answer = await ask(address, model, prompts.tokens(number)[:LONE_PROMPT_TOKENS], 1)
        times.append(answer.events[0] - answer.sent)
    return statistics.median(times)


@contextlib.contextmanager
def server(flags: list[str]) -> Iterator[tuple[str, int]]:
    """`gllm serve` of the demo model; its address."""
    command = [sys.executable, "-m", "gllm", "serve", str(CONFIG), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.startswith(READY)), None)
            if line is None:
                raise RuntimeError("the server ended before it was ready")
            url = urlsplit(line.removeprefix(READY).split()[0])
            assert url.hostname is not None
            assert url.port is not None
            yield url.hostname, url.port
        finally:
            process.terminate()


def seconds_of_processor() -> tuple[float, float]:
    """Seconds of processor time that all processes have taken, and those of this one and its descendants."""
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    taken: dict[int, tuple[int, int]] = {}  # by pid: parent, ticks
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = file.read_text().rpartition(")")[2].split()
            taken[int(file.parent.name)] = int(words[1]), int(words[11]) + int(words[12])
    ours = {os.getpid()}
    while more := {pid for pid, (parent, _) in taken.items() if parent in ours} - ours:
        ours |= more
    return (user + nice + system) / tick, sum(taken[pid][1] for pid in ours) / tick


def live_figures(answers: list[Answer]) -> dict[str, float]:
    """The figures of `report.summary` that are compared."""
    num_tokens = np.array([answer.num_tokens for answer in answers])
    ttft = np.array([answer.events[0] - answer.sent for answer in answers])
    e2el = np.array([answer.events[-1] - answer.sent for answer in answers])
    gaps = np.concatenate([np.diff(answer.events) for answer in answers])
    tpot = (e2el - ttft) / np.maximum(num_tokens - 1, 1)
    duration = max(answer.events[-1] for answer in answers) - min(answer.sent for answer in answers)
    return {
        "duration": duration,
        "total_output_tokens": float(num_tokens.sum()),
        "request_throughput": len(answers) / duration,
        "output_throughput": float(num_tokens.sum()) / duration,
        **latency_statistics(Latencies(num_tokens, ttft, tpot, gaps, e2el)),
    }


COMPARED = {
    "duration": "duration (s)",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "median_ttft_ms": "TTFT median (ms)",
    "p90_ttft_ms": "TTFT p90 (ms)",
    "median_tpot_ms": "TPOT median (ms)",
    "p90_tpot_ms": "TPOT p90 (ms)",
    "median_e2el_ms": "E2EL median (ms)",
    "p90_e2el_ms": "E2EL p90 (ms)",
}


def with_gateway(costs: CostFile, seconds: float) -> CostFile:
    """`costs` with the time of a lone request that is not the worker's."""
    num_pairs = LONE_PROMPT_TOKENS * (LONE_PROMPT_TOKENS + 1) // 2
    lone = StepShape(LONE_PROMPT_TOKENS, 1, 1, 1, LONE_PROMPT_TOKENS, num_pairs)
    overheads = costs.overheads
    worker_s = costs.step.seconds(lone) + overheads.wake.seconds(LONE_PAUSE_S)
    submit_s = max(seconds - worker_s - overheads.plan_s - overheads.result_s, 0.0)
    return costs.model_copy(update={"overheads": overheads.model_copy(update={"submit_s": submit_s})})


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Both figures, by name, and what they were made with."""
    flags = ["--num-threads", str(given.num_threads)]
    config: DeploymentConfig = load(str(CONFIG), {"--num-threads": given.num_threads})
    if given.cost is not None:
        costs = read_costs(given.cost)
    else:
        costs, _ = measure(Path(config.model.path), num_threads=given.num_threads)
    trace = read_trace(given.trace).first(given.num_prompts).shortened(given.length_divisor)
    trace = trace.at_rate(given.request_rate)
    prompts = Prompts(trace, costs.capacity.vocab_size)
    with server(flags) as address:
        costs = with_gateway(costs, asyncio.run(lone_ttft(address, config.model.name, prompts)))
        before, began = seconds_of_processor(), time.perf_counter()
        answers = asyncio.run(serve_trace(address, config.model.name, trace, prompts))
        taken_by_all, taken_by_us = np.subtract(seconds_of_processor(), before)
        processor_s = (time.perf_counter() - began) * (os.cpu_count() or 1)
    if given.out is not None:
        costs.save(given.out)
    live, simulated = live_figures(answers), summary(simulate(trace, config, costs))
    return {
        "bench": "simulate_vs_live",
        "machine": costs.machine,
        "trace": f"{trace.name}, {len(trace.requests)} requests, lengths / {given.length_divisor}",
        "request_rate": given.request_rate,
        "fit": costs.fit.model_dump() if costs.fit else None,
        "overheads": costs.overheads.model_dump(),
        "live": {name: live[name] for name in COMPARED},
        "simulated": {name: simulated[name] for name in COMPARED},
        "ratio": {name: simulated[name] / live[name] for name in COMPARED},
        "worker_busy": simulated["worker_busy"],
        "share_of_others": float(taken_by_all - taken_by_us) / processor_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", required=True, metavar="FILE")
    parser.add_argument(
        "--cost", metavar="FILE", help="a cost file of this machine; without it one is fitted"
    )
    parser.add_argument("--out", metavar="FILE", help="write the cost file, with the way of a lone request")
    parser.add_argument("--request-rate", type=float, default=6.0)
    parser.add_argument("--num-prompts", type=int, default=200)
    parser.add_argument("--length-divisor", type=int, default=8)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    report = compare(given)
    if given.json:
        print(json.dumps(report))
        return
    print(f"{report['trace']}, {report['request_rate']:g} requests/s; {report['machine']}")
    print(f"way of a lone request around the worker: {1e3 * report['overheads']['submit_s']:.2f} ms")
    print(f"worker busy in the simulation: {100 * report['worker_busy']:.0f} %")
    print(f"processor time taken by others in the live run: {100 * report['share_of_others']:.0f} %")
    print(f"{'':<18} {'live':>10} {'simulated':>10} {'ratio':>6}")
    for name, title in COMPARED.items():
        live, simulated, ratio = (report[key][name] for key in ("live", "simulated", "ratio"))
        print(f"{title:<18} {live:>10.2f} {simulated:>10.2f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
