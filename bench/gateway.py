"""What the gateway costs: the real launcher, frontend and scheduler around a worker that computes nothing.

    python -m bench.gateway [--json] [--seconds 5] [--model demo/model] [--frontends 1] [--only NAME ...]

The load comes from `bench.gateway_client`, a process of its own whose CPU time is shown: near a whole
core it would be what was measured. The first frontend has core 0 alone and everything else the other
cores, so that "one frontend process on one core" is just that. `streams` answers at once (a slow reader
then gets several tokens in one event), `paced` gives every sequence one token a step at the wanted rate.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gllm.config import from_options
from gllm.frontend.tokenizer import Tokenizer
from gllm.launch import SERVING, Deployment
from gllm.protocol.messages import Role

WORDS = "the cat sat on a mat and saw nine red birds fly past two old barns"
TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """One load. rate: wanted tokens a second, None as fast as the worker answers."""

    name: str
    connections: int
    tokens: int
    stream: bool
    rate: float | None = None


CASES = (
    Case("short answers", 64, 8, stream=False),
    Case("streams, 64", 64, 256, stream=True),
    Case("streams, 512", 512, 256, stream=True),
    Case("paced, 64", 64, 256, stream=True, rate=20_000),
    Case("paced, 512", 512, 64, stream=True, rate=20_000),
    Case("paced, 64, 60k", 64, 256, stream=True, rate=60_000),
    Case("one token, alone", 1, 1, stream=True),
    Case("one token, 64", 64, 1, stream=True, rate=2000),
)


def measured(case: Case, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one case, in a deployment of its own."""
    tokenizer = Tokenizer.load(Path(given.model))
    os.environ["GLLM_BENCH_TOKENS"] = ",".join(map(str, tokenizer.encode(WORDS)))
    os.environ["GLLM_BENCH_STEP_MS"] = str(1e3 * case.connections / case.rate if case.rate else 0)
    config = from_options(
        model=given.model,
        port=0,
        max_num_seqs=512,
        max_num_batched_tokens=8192,
        log_level="warning",
        **({"api_server_count": given.frontends} if given.frontends > 1 else {}),
    )
    deployment = Deployment.start(config, SERVING, modules={Role.WORKER: "bench.null_worker"}, timeout_s=60)
    try:
        children = _children()
        _share_out_cores(children)
        port = int(deployment.details[Role.FRONTEND].rpartition(":")[2])
        answer, cpu_s = _loaded(case, port, given, children)
    finally:
        deployment.stop()
    return _figures(case, answer, cpu_s)


def _loaded(
    case: Case, port: int, given: argparse.Namespace, children: Mapping[int, str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """The client's figures, and the CPU seconds of each child in the measured time."""
    body = {
        "model": given.model,
        "prompt": "Once upon a time there was",
        "max_tokens": case.tokens,
        "ignore_eos": True,
        "stream": case.stream,
    }
    command = [sys.executable, "-m", "bench.gateway_client", str(port), "--body", json.dumps(body)]
    command += ["--connections", str(case.connections), "--seconds", str(given.seconds)]
    command += ["--tokens", str(case.tokens), *(["--stream"] if case.stream else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        if len(os.sched_getaffinity(0)) > 1:
            os.sched_setaffinity(client.pid, os.sched_getaffinity(0) - {min(os.sched_getaffinity(0))})
        assert client.stdout.readline() == "begin\n"
        before = {pid: _cpu_s(pid) for pid in children}
        assert client.stdout.readline() == "end\n"
        after = {pid: _cpu_s(pid) for pid in children}
        answer = json.loads(client.stdout.readline())
    used: dict[str, float] = {}
    for pid, role in children.items():
        used[role] = used.get(role, 0.0) + after[pid] - before[pid]
    return answer, used


def _figures(case: Case, answer: Mapping[str, Any], cpu_s: Mapping[str, float]) -> dict[str, Any]:
    seconds, tokens, events = answer["seconds"], answer["tokens"], answer["events"]
    figures: dict[str, Any] = {
        "case": case.name,
        "requests_per_s": round(answer["requests"] / seconds, 1),
        "tokens_per_s": round(tokens / seconds),
        "events_per_s": round(events / seconds),
        "failed": answer["failed"],
        "first_ms": answer["first_ms"] if case.stream else answer["total_ms"],
        "gap_ms": answer["gap_ms"],
        "cores": {role: round(used / seconds, 2) for role, used in cpu_s.items()},
        "client_cores": round(answer["client_cpu_s"] / seconds, 2),
    }
    if case.rate and case.tokens > 1:
        figures["step_ms"] = round(1e3 * case.connections / case.rate, 3)
    for per, count in (("token", tokens), ("event", events), ("request", answer["requests"])):
        if count:
            figures[f"us_per_{per}"] = {role: round(1e6 * used / count, 1) for role, used in cpu_s.items()}
    return figures


def _children() -> dict[int, str]:
    """Our child processes that name a role in their title."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes().decode(errors="replace")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            match = re.match(r"gllm::([a-z]+)", title)
            if match and parent == os.getpid():
                found[int(entry.name)] = match[1]
    return found


def _share_out_cores(children: Mapping[int, str]) -> None:
    """The first frontend alone on one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return
    first = min(pid for pid, role in children.items() if role == "frontend")
    for pid in children:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[:1] if pid == first else cores[1:])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--frontends", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name begins so")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    given = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if not given.json:
        print(f"gateway, {given.frontends} frontend process(es), null worker; {machine}")
        print(
            f"{'case':<18}{'req/s':>8}{'tok/s':>9}{'events/s':>9}{'first p50':>10}{'p99 ms':>8}"
            f"{'gap p50':>9}{'p99 ms':>8}{'frontend':>10}{'scheduler':>10}{'worker':>8}{'client':>8}"
            f"{'us/event':>10}"
        )
    for case in CASES:
        if given.only and not any(case.name.startswith(name) for name in given.only):
            continue
        found = measured(case, given)
        if given.json:
            print(json.dumps({"bench": "gateway", "machine": machine, "frontends": given.frontends} | found))
            continue
        cores = found["cores"]
        per_event = found.get("us_per_event", {}).get("frontend", 0.0)
        print(
            f"{case.name:<18}{found['requests_per_s']:>8.0f}{found['tokens_per_s']:>9}{found['events_per_s']:>9}"
            f"{found['first_ms']['p50']:>10.2f}{found['first_ms']['p99']:>8.2f}"
            f"{found['gap_ms']['p50']:>9.2f}{found['gap_ms']['p99']:>8.2f}"
            f"{cores['frontend']:>10.2f}{cores['scheduler']:>10.2f}{cores['worker']:>8.2f}"
            f"{found['client_cores']:>8.2f}{per_event:>10.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
