"""One server for all tests that only talk to it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = [
    "--max-num-seqs",
    "8",
    "--num-threads",
    "1",
    "--kv-cache-memory-bytes",
    "64MiB",
    "--log-level",
    "warning",
]


@pytest.fixture(scope="session")
def model() -> str:
    """The demo model, by the path that the documentation uses."""
    return os.environ.get("GLLM_TEST_MODEL", "demo/model")


@pytest.fixture(scope="session")
def server(model: str) -> Iterator[str]:
    """The URL of a running server, started by the first gLLM's command."""
    command = [sys.executable, "-m", "gllm.entrypoints.api_server", "--port", "0", "--model-path", model]
    process = subprocess.Popen(
        [*command, "--pipe-schedule", *FLAGS], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        found = re.search(r"http://\S+", ready)
        assert found, ready
        yield found[0]
        process.terminate()
        assert process.wait(60) == 0
