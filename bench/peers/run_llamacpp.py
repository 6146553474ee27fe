"""llama.cpp's llama-server over loopback HTTP, with token ids; all requests of a measurement come at once.

Each slot has a KV cache of its own: with one for all, attention runs over the cells of every slot. The cache
is f16; f32 is a slow path there.
"""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.peers.loop import arguments, serve
from bench.peers.workload import Request

NUM_SLOTS, SLOT_LEN = 64, 1280


def main() -> None:
    given = arguments()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, threads = f"http://127.0.0.1:{port}", str(given.num_threads)
    command = [
        given.program, "-m", given.model, "--host", "127.0.0.1", "--port", str(port), "--no-webui",
        "-t", threads, "-tb", threads, "-np", str(NUM_SLOTS), "-c", str(NUM_SLOTS * SLOT_LEN),
        "--no-kv-unified", "-ub", "512", "-b", "2048", "-ctk", "f16", "-ctv", "f16", "--cache-ram", "0",
        "--threads-http", str(NUM_SLOTS + 2), "--no-warmup",
    ]  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    null = subprocess.DEVNULL
    server = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
    try:
        wait_until_healthy(server, url)
        told = subprocess.run([given.program, "--version"], capture_output=True, text=True, check=False)
        version = next((line for line in (told.stdout + told.stderr).splitlines() if "version" in line), "?")
        serve(given, version.removeprefix("version: "), lambda requests: complete_all(url, requests))
    finally:
        server.terminate()
        server.wait()


def wait_until_healthy(server: "subprocess.Popen[bytes]", url: str) -> None:
    while True:
        if server.poll() is not None:
            raise SystemExit(f"llama-server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)


def complete_all(url: str, requests: Sequence[Request]) -> list[list[int]]:
    def complete(one: Request) -> list[int]:
        body = {
            "prompt": one.prompt, "n_predict": one.num_output_tokens, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False, "return_tokens": True, "samplers": ["top_k"], "top_k": 1, "stream": False,
        }  # fmt: skip
        asked = urllib.request.Request(
            f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=900) as answer:
            told = json.load(answer)
        if told["tokens_evaluated"] != len(one.prompt):
            raise SystemExit(f"llama-server computed {told['tokens_evaluated']} of {len(one.prompt)} tokens")
        return list(told["tokens"])

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(complete, requests))


if __name__ == "__main__":
    main()
