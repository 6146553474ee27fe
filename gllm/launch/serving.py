"""The whole of `gllm serve`: a deployment until a signal or a failure.

Knows signals, exit codes and the terminal; how the processes are kept is `deployment.py`'s.
"""

import signal
import sys
import threading
import time
from typing import Any

from gllm.config import DeploymentConfig
from gllm.launch.deployment import SERVING, TICK_S, Deployment
from gllm.protocol.messages import Role


def serve(config: DeploymentConfig) -> int:
    """Run until a signal or a failure; the exit code."""
    asked = threading.Event()
    num_signals = 0

    def on_signal(_number: int, _frame: Any) -> None:
        nonlocal num_signals
        num_signals += 1
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    began = time.monotonic()
    deployment = Deployment(config, SERVING)
    deployment.on_failure(lambda _sentence: asked.set())
    deployment.begin()
    try:
        while not asked.is_set() and not deployment.wait_ready(TICK_S):
            pass
        if not asked.is_set():
            url = deployment.details[Role.FRONTEND]
            print(f"gLLM ready: {url} after {time.monotonic() - began:.1f} s", flush=True)
            asked.wait()
            deadline = time.monotonic() + config.limits.shutdown_timeout_s
            while deployment.failure is None and num_signals < 2 and time.monotonic() < deadline:
                if deployment.drain(TICK_S):
                    break
    finally:
        deployment.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # one more while Python ends must not change the exit code
    if deployment.failure is not None:
        print(f"gllm: {deployment.failure}", file=sys.stderr, flush=True)
        return 1
    return 0
