"""What the gateway costs: the real launcher, frontend and scheduler around a worker that computes nothing.

    python -m bench.gateway [--json] [--seconds 5] [--frontends 1] [--peers DIR] [--only NAME ...]
    python -m bench.gateway --scaling 1,2,4

The load comes from `bench.gateway_client`, a process of its own whose CPU time is shown: near a whole core
it would be what was measured. `streams` answers at once (a slow reader then gets several tokens in one
event), `paced` gives every sequence one token a step at the wanted rate. *token* is the time from a token's
making to its arrival, what the gateway adds. With --peers, the folder that `bench/peers/install.sh` made,
vLLM's server gets the same load after ours.

--scaling puts the same loads on several numbers of frontends, from a client that looks every 10 ms only.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateway_servers import Server, served

RARELY_MS = 10


@dataclass(frozen=True)
class Case:
    """One load. token_rate: wanted tokens a second, None as fast as the worker answers; request_rate: of
    requests that do not wait for each other. is_rare: the client looks rarely."""

    name: str
    connections: int
    tokens: int
    stream: bool
    token_rate: float | None = None
    request_rate: float | None = None
    is_rare: bool = False


CASES = (
    Case("short answers", 64, 8, stream=False),
    Case("streams, 64", 64, 256, stream=True),
    Case("streams, 512", 512, 256, stream=True),
    Case("paced, 64", 64, 256, stream=True, token_rate=20_000),
    Case("paced, 512", 512, 64, stream=True, token_rate=20_000),
    Case("paced, 64, 60k", 64, 256, stream=True, token_rate=60_000),
    Case("one token, alone", 1, 1, stream=True),
    Case("one token, 500/s", 64, 1, stream=True, request_rate=500),
)
SCALING = tuple(
    Case(f"paced, 256, {rate // 1000}k", 256, 512, stream=True, token_rate=rate, is_rare=True)
    for rate in (40_000, 80_000, 120_000, 160_000)
)


def measured(case: Case, server: Server, model: str, seconds: float) -> dict[str, Any]:
    """The figures of one case."""
    server.steps.last(case.connections / case.token_rate if case.token_rate else 0)
    answer, cpu_s = _loaded(case, server, model, seconds)
    time.sleep(0.5)  # what the client left unfinished is cancelled
    return _figures(case, answer, cpu_s)


def _loaded(
    case: Case, server: Server, model: str, seconds: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """The client's figures, and the CPU seconds of each role in the measured time."""
    body = {
        "model": model,
        "prompt": "Once upon a time there was",
        "max_tokens": case.tokens,
        "ignore_eos": True,
        "stream": case.stream,
    }
    command = [sys.executable, "-m", "bench.gateway_client", str(server.port), "--body", json.dumps(body)]
    command += ["--connections", str(case.connections), "--seconds", str(seconds)]
    command += ["--stream"] if case.stream else []
    command += ["--rate", str(case.request_rate)] if case.request_rate else []
    command += ["--every-ms", str(RARELY_MS)] if case.is_rare else ["--words", json.dumps(server.words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        if len(os.sched_getaffinity(0)) > 1:
            os.sched_setaffinity(client.pid, os.sched_getaffinity(0) - {min(os.sched_getaffinity(0))})
        assert client.stdout.readline() == "begin\n"
        before = server.cpu_s()
        assert client.stdout.readline() == "end\n"
        after = server.cpu_s()
        answer = json.loads(client.stdout.readline())
    return answer, {role: after[role] - before[role] for role in after}


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
        "token_ms": answer["age_ms"],
        "cores": {role: round(used / seconds, 2) for role, used in cpu_s.items()},
        "client_cores": round(answer["client_cpu_s"] / seconds, 2),
    }
    if case.token_rate:
        figures["step_ms"] = round(1e3 * case.connections / case.token_rate, 3)
    for per, count in (("token", tokens), ("event", events), ("request", answer["requests"])):
        if count:
            figures[f"us_per_{per}"] = {role: round(1e6 * used / count, 1) for role, used in cpu_s.items()}
    return figures


HEAD = (
    f"{'case':<18}{'req/s':>7}{'tok/s':>8}{'events/s':>9}{'first p50':>10}{'p99 ms':>8}"
    f"{'gap p50':>8}{'p99 ms':>8}{'token p50':>10}{'p99 ms':>8}{'frontend':>9}"
    f"{'scheduler':>10}{'worker':>7}{'client':>7}{'us/event':>9}{'us/token':>9}"
)


def line(found: Mapping[str, Any]) -> str:
    """One row below `HEAD`; us/event of the frontends, us/token of the scheduler."""
    first, gap, token, cores = (found[name] for name in ("first_ms", "gap_ms", "token_ms", "cores"))
    per_event = found.get("us_per_event", {}).get("frontend", 0.0)
    per_token = found.get("us_per_token", {}).get("scheduler", 0.0)
    return (
        f"{found['case']:<18}{found['requests_per_s']:>7.0f}{found['tokens_per_s']:>8}{found['events_per_s']:>9}"
        f"{first['p50']:>10.2f}{first['p99']:>8.2f}{gap['p50']:>8.2f}{gap['p99']:>8.2f}"
        f"{token['p50']:>10.2f}{token['p99']:>8.2f}"
        f"{cores['frontend']:>9.2f}{cores['scheduler']:>10.2f}{cores['worker']:>7.2f}"
        f"{found['client_cores']:>7.2f}{per_event:>9.1f}{per_token:>9.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--frontends", type=int, default=1)
    parser.add_argument("--scaling", metavar="N,...", help="numbers of frontends, each with the same loads")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="vLLM's gateway, too, from this folder")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name begins so")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    given = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    counts = [int(word) for word in given.scaling.split(",")] if given.scaling else [given.frontends]
    wanted = tuple(given.only or [""])
    cases = [case for case in (SCALING if given.scaling else CASES) if case.name.startswith(wanted)]
    runs = [(name, count) for name in ("gllm", "vllm")[: 2 if given.peers else 1] for count in counts]
    for name, count in runs:
        if not given.json:
            print(
                f"gateway of {name}, {count} frontend process(es), null worker; {machine}\n{HEAD}", flush=True
            )
        with served(given.model, count, given.peers if name == "vllm" else None) as server:
            for case in cases:
                found = measured(case, server, given.model, given.seconds)
                about = {"bench": "gateway", "gateway": name, "machine": machine, "frontends": count}
                print(json.dumps(about | found) if given.json else line(found), flush=True)


if __name__ == "__main__":
    main()
