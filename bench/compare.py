"""Ours and every installed peer on one checkpoint and one workload, in one go, and the table of it.

    python -m bench.compare --peers DIR --out results.jsonl [--rounds 3] [--engines gllm,vllm] [--resume]
    python -m bench.compare --show results.jsonl

All engines of a dtype are started one after the other and stay; then each round asks every one of them in
turn, so that a disturbance of the machine falls on all alike. `--peers` is the folder that
`bench/peers/install.sh` made. Every measurement is a line of the result file as soon as it is there: a run
that was cut off goes on with `--resume`, and an engine that fails costs its own lines only.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.peers.engines import ENGINES, OURS, Engine
from bench.peers.process import EngineFailed, EngineProcess, machine_cpu_seconds
from bench.peers.report import rows, table
from bench.peers.workload import NUM_REQUESTS

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("decode", "prefill", "offline")
QUIET_CORES = 0.2  # what others may use when a measurement begins


class Comparison:
    """The result file and the options of one run."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.peers = Path(given.peers).resolve()
        self.lines = read(given.out) if given.resume else []
        self.vocab_size = json.loads((self.peers / "models/float32/config.json").read_text())["vocab_size"]

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self.given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def is_done(self, engine: Engine, kind: str, round_: str, count: int) -> bool:
        wanted = (engine.name, engine.dtype, kind, round_, count)
        return any(wanted == tuple(map(line.get, ("engine", "dtype", "kind", "round", "count")))
                   for line in self.lines)  # fmt: skip

    def run(self, engines: Sequence[Engine]) -> None:
        """All engines of one dtype, alternating."""
        asked = list(questions(self.given))
        due = [engine for engine in engines if not all(self.is_done(engine, *one) for one in asked)]
        with ExitStack() as stack:
            running: dict[Engine, EngineProcess] = {}
            for engine in due:
                log = Path(stack.enter_context(tempfile.TemporaryDirectory()), "log")
                process = EngineProcess(
                    engine.command(self.peers, self.given.num_threads), environment(), log
                )
                stack.callback(process.stop)
                with self.failure_written(engine):
                    self.start(engine, process)
                    running[engine] = process
            for number, question in enumerate(asked):
                order = [engine for engine in running if not self.is_done(engine, *question)]
                first = number // len(KINDS) % max(len(order), 1)  # nobody is always behind the same one
                for engine in order[first:] + order[:first]:
                    process = running.pop(engine)
                    with self.failure_written(engine):
                        self.measure(engine, process, *question)
                        running[engine] = process

    @contextmanager
    def failure_written(self, engine: Engine) -> Iterator[None]:
        """An engine that fails has lines of its own to lose, and no others'."""
        try:
            yield
        except EngineFailed as error:
            say(f"{engine.key} failed: {error}")
            self.write({"engine": engine.name, "dtype": engine.dtype, "failure": str(error)})

    def start(self, engine: Engine, process: EngineProcess) -> None:
        """Wait for it, take the time to its first token, and let it warm up."""
        version = process.answer(self.given.timeout)["version"]
        ready_s = time.perf_counter() - process.began
        self.ask(process, "first", "start", 1)
        first_token_s = time.perf_counter() - process.began
        for kind, count in (("decode", 1), ("offline", 8), ("prefill", 1)):
            self.ask(process, kind, "warm", count)
        say(f"{engine.key} {version}: ready after {ready_s:.1f} s, first token after {first_token_s:.1f} s")
        self.write({"engine": engine.name, "dtype": engine.dtype, "kind": "start", "version": version,
                    "ready_s": ready_s, "first_token_s": first_token_s})  # fmt: skip

    def measure(self, engine: Engine, process: EngineProcess, kind: str, round_: str, count: int) -> None:
        wait_until_quiet(self.given.max_wait)
        machine, own, began = machine_cpu_seconds(), process.cpu_seconds(), time.perf_counter()
        answer = self.ask(process, kind, round_, count)
        foreign_s = machine_cpu_seconds() - machine - (process.cpu_seconds() - own)
        foreign = max(foreign_s / (time.perf_counter() - began), 0.0)
        took = f"{answer['seconds']:.2f} s, others {foreign:.2f} cores"
        say(f"{engine.key} {kind} {count} round {round_}: {took}")
        self.write({
            "engine": engine.name, "dtype": engine.dtype, "kind": kind, "round": round_, "count": count,
            **answer, "peak_bytes": process.peak_memory(), "foreign_cores": round(foreign, 3),
        })  # fmt: skip

    def ask(self, process: EngineProcess, kind: str, round_: str, count: int) -> dict[str, Any]:
        question = {"kind": kind, "round": round_, "count": count, "vocab_size": self.vocab_size}
        return process.ask(question, self.given.timeout)


def questions(given: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Kind, round and number of requests, in the order in which they are asked."""
    for round_ in range(given.rounds):
        for kind in KINDS:
            yield kind, str(round_), given.num_requests if kind == "offline" else 1
    for count in map(int, filter(None, given.counts.split(","))):
        yield "offline", "0", count


def wait_until_quiet(most_s: float) -> None:
    """Until nobody computes on this machine, or `most_s` have passed."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        used, began = machine_cpu_seconds(), time.monotonic()
        time.sleep(0.5)
        if (machine_cpu_seconds() - used) / (time.monotonic() - began) < QUIET_CORES:
            return


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def header(given: argparse.Namespace) -> dict[str, Any]:
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "?")  # fmt: skip
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.compare", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {cpu}, {platform.machine()}, Python {platform.python_version()}",
        "num_threads": given.num_threads,
    }


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def say(sentence: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {sentence}", file=sys.stderr, flush=True)


def show(lines: Sequence[dict[str, Any]]) -> None:
    for line in lines:
        if "machine" in line:
            print(f"{line['date']}  {line['machine']}\n{line['command']}\n")
    print(*table(lines), sep="\n")
    for row in rows(lines):
        if row.first_tokens:
            print(f"{row.engine}/{row.dtype} begins with", *row.first_tokens)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", metavar="DIR", default=".peers", help="(default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", default=Path("compare.jsonl"))
    parser.add_argument("--resume", action="store_true", help="go on with the file of --out")
    parser.add_argument(
        "--show", type=Path, metavar="FILE.jsonl", help="print the table of a run that is over"
    )
    parser.add_argument("--engines", default="", metavar="NAME,...", help="(default: all that are installed)")
    parser.add_argument("--dtypes", default="float32,bfloat16", metavar="TYPE,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-requests", type=int, default=NUM_REQUESTS, metavar="N",
                        help="of offline (default %(default)s)")  # fmt: skip
    parser.add_argument("--counts", default="", metavar="N,...",
                        help="offline with these numbers of requests, too, once each")  # fmt: skip
    parser.add_argument("--num-threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one measurement or start")
    parser.add_argument("--max-wait", type=float, default=5, help="seconds to wait for a quiet machine")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    if given.show is not None:
        show(read(given.show))
        return 0
    if given.out.exists() and not given.resume:
        print(f"{given.out} exists: name another file with --out, or go on with --resume", file=sys.stderr)
        return 2
    names = set(given.engines.split(",")) - {""}
    if unknown := names - {engine.name for engine in ENGINES}:
        known = ", ".join(dict.fromkeys(engine.name for engine in ENGINES))
        print(f"no engine is called {sorted(unknown)[0]}: expected some of {known}", file=sys.stderr)
        return 2
    if not (Path(given.peers) / "models/float32/config.json").exists():
        sentence = f"{given.peers} holds no models: bench/peers/install.sh {given.peers} models makes them"
        print(sentence, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `run`, which leaves no engine behind
    comparison = Comparison(given)
    comparison.write(header(given))
    for dtype in given.dtypes.split(","):
        chosen = [one for one in ENGINES if one.dtype == dtype and (not names or one.name in names)]
        for engine in chosen:
            if missing := engine.missing(comparison.peers):
                say(f"{engine.key} is not installed: {comparison.peers / missing} is missing")
        comparison.run([engine for engine in chosen if not engine.missing(comparison.peers)])
    show(comparison.lines)
    ours = [row for row in rows(comparison.lines) if row.engine == OURS]
    return 1 if any(row.failure for row in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
