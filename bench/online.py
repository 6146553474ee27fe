"""Average latency over the request rate: our server with and without the pipe schedule, and others' servers.

    python -m bench.online --peers DIR --out FOLDER [--rates 1,2,4,8] [--seconds 20] [--servers gllm,vllm]

Each server is started in turn, and `gllm bench serve` puts the same load on it, with the same command line
but for the address. Results are files of `--save-result` in the folder; what is there already is not
measured again. `--peers` is the folder that `bench/peers/install.sh` made.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.peers.process import tree

ROOT = Path(__file__).resolve().parent.parent
MODEL = "small"
READY_S = 300
LENGTHS = ("--dataset-name", "random", "--random-input-len", "128", "--random-output-len", "32")


def command(server: str, peers: Path, port: int, num_threads: int) -> list[str]:
    """How each server is started; all of them with 64 sequences at once, float32, and no prefix cache."""
    model, threads = str(peers / "models" / "float32"), str(num_threads)
    ours = [
        sys.executable, "-m", "gllm", "serve", "--model-path", model, "--served-model-name", MODEL,
        "--port", str(port), "--num-threads", threads, "--max-num-seqs", "64", "--max-model-len", "2048",
        "--max-num-batched-tokens", "2048", "--kv-cache-memory-bytes", "2GiB", "--disable-radix-cache",
        "--log-level", "warning",
    ]  # fmt: skip
    commands = {
        "gllm": ours,
        "gllm-no-pipe": [*ours, "--disable-overlap-schedule"],
        "vllm": [
            str(peers / "vllm/bin/python"), "-m", "vllm.entrypoints.openai.api_server", "--model", model,
            "--served-model-name", MODEL, "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32",
            "--max-num-seqs", "64", "--max-model-len", "2048", "--max-num-batched-tokens", "2048",
            "--no-enable-prefix-caching",
        ],
        "llama.cpp": [
            str(peers / "llama.cpp/bin/llama-server"), "-m", f"{model}.gguf", "--alias", MODEL,
            "--host", "127.0.0.1", "--port", str(port), "-t", threads, "-tb", threads, "-np", "64",
            "-c", str(64 * 1280), "--no-kv-unified", "-ub", "512", "-b", "2048", "--cache-ram", "0",
            "--threads-http", "66", "--no-webui",
        ],
    }  # fmt: skip
    return commands[server]


class ServerFailed(Exception):
    """It does not start; the message holds its last words."""


SERVERS = ("gllm", "gllm-no-pipe", "vllm", "llama.cpp")


def environment(num_threads: int) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_threads - 1}",
    }  # fmt: skip


@contextlib.contextmanager
def started(
    command_at: Callable[[int], Sequence[str]], variables: Mapping[str, str], log: Path
) -> Iterator[tuple[int, int]]:
    """Port and process id of a server that is healthy. command_at: how it is started at a port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command_at(port), env=variables, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
        yield port, process.pid
    finally:
        pids = tree(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()


def wait_until_healthy(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    raise ServerFailed(f"the server is not healthy; it said last: {lines[-1][:300]}")


def load(url: str, rate: float, seconds: float, tokenizer: Path, server: str, out: Path) -> list[str]:
    """The command line that every server gets."""
    return [
        sys.executable, "-m", "gllm", "bench", "serve", "--backend", "openai", "--base-url", url,
        "--model", MODEL, "--tokenizer", str(tokenizer), *LENGTHS, "--ignore-eos",
        "--request-rate", f"{rate:g}", "--num-prompts", str(max(round(rate * seconds), 8)),
        "--num-warmups", "4", "--percentile-metrics", "ttft,tpot,itl,e2el", "--disable-tqdm",
        "--save-result", "--result-dir", str(out.parent), "--result-filename", out.name,
        "--metadata", f"engine={server}",
    ]  # fmt: skip


def measure(server: str, rates: Sequence[float], given: argparse.Namespace) -> bool:
    """Every rate that has no file yet; whether all of them have one."""
    files = {rate: given.out / f"serve-{server}-{rate:g}.json" for rate in rates}
    missing = {rate: file for rate, file in files.items() if not file.exists()}
    if not missing:
        return True
    log = given.out / f"serve-{server}.log"
    peers, num_threads = given.peers.resolve(), given.num_threads
    starting = started(lambda port: command(server, peers, port, num_threads), environment(num_threads), log)
    with starting as (port, _):
        url = f"http://127.0.0.1:{port}"
        for rate, file in missing.items():
            words = load(url, rate, given.seconds, given.peers / "models/float32", server, file)
            print("$", shlex.join(["gllm", *words[3:]]), flush=True)
            subprocess.call(words, cwd=ROOT, env=environment(given.num_threads))
    log.unlink()
    return all(file.exists() for file in files.values())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=Path, default=Path(".peers"), metavar="DIR",
                        help="(default %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rates", default="1,2,4,8", metavar="R,...", help="(default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="of load at each rate (default %(default)s)"
    )
    parser.add_argument("--servers", default=",".join(SERVERS), metavar="NAME,...",
                        help="(default %(default)s)")  # fmt: skip
    parser.add_argument("--num-threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the end of `served`
    given.out.mkdir(parents=True, exist_ok=True)
    rates = [float(word) for word in given.rates.split(",")]
    failed = False
    for server in given.servers.split(","):
        if server not in SERVERS:
            parser.error(f"no server is called {server}: expected some of {', '.join(SERVERS)}")
        try:
            failed |= not measure(server, rates, given)
        except ServerFailed as error:  # the others can still be measured
            print(f"{server}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
