"""A recording of the real processes: launcher, scheduler, a worker that sleeps, and two frontends here.

python tests/scheduler/live.py FILE [NUM_REQUESTS [SEED]]
"""

import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from gllm.config import from_options
from gllm.launch import OFFLINE, Deployment
from gllm.process import FRONTENDS
from gllm.protocol.channel import Channel, hello
from gllm.protocol.messages import (
    Cancel,
    Rejected,
    Role,
    Sampling,
    SchedulerReady,
    Stats,
    StatsRequest,
    Submit,
    Tokens,
)
from gllm.protocol.wire import column

TIMEOUT_S = 120.0


@dataclass
class Client:
    """One frontend, and what it is still waiting for."""

    channel: Channel
    open: dict[int, int] = field(default_factory=dict)  # request id -> outputs that have not ended
    num_ended: int = 0
    num_cancelled: int = 0
    num_rejected: int = 0

    def read(self, timeout_s: float) -> Stats | None:
        """Take what has come within `timeout_s`; a `Stats` ends that."""
        until = time.monotonic() + timeout_s
        while (message := self.channel.receive(max(until - time.monotonic(), 0.0))) is not None:
            if isinstance(message, Stats):
                return message
            if isinstance(message, Rejected):
                self.open.pop(message.request_id, None)
                self.num_rejected += 1
            elif isinstance(message, Tokens):
                for item in message.finished:
                    self._finish(message.request_ids[item.row])
        return None

    def _finish(self, request_id: int) -> None:
        if request_id in self.open:
            self.open[request_id] -= 1
            if not self.open[request_id]:
                del self.open[request_id]
                self.num_ended += 1

    def cancel(self, request_ids: list[int]) -> None:
        self.channel.send(Cancel(column(request_ids)))
        for request_id in request_ids:
            del self.open[request_id]
        self.num_cancelled += len(request_ids)


def record_live(
    file: Path, *, num_requests: int = 600, seed: int = 0, max_bytes: int = 1 << 28, max_files: int = 4
) -> tuple[Stats, int]:
    """Serve random requests and record that into `file`: the scheduler's last state, and how many
    requests were cancelled."""
    config = from_options(
        model="unused",
        max_num_seqs=16,
        max_num_batched_tokens=64,
        num_gpu_blocks_override=60,
        page_size=4,
        record=str(file),
        record_max_bytes=max_bytes,
        record_max_files=max_files,
        log_level="warning",
    )
    os.environ["GLLM_BENCH_SLEEP_MS"] = "0.5"
    os.environ["GLLM_BENCH_SLEEP_US_PER_TOKEN"] = "20"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLLM_BENCH_OUT"] = str(Path(folder) / "idle.json")
        deployment = Deployment.start(config, OFFLINE, modules={Role.WORKER: "bench.sleeping_worker"})
        try:
            return _serve(deployment.address(FRONTENDS), num_requests, random.Random(seed))
        finally:
            deployment.stop()


def _serve(address: str, num_requests: int, rng: random.Random) -> tuple[Stats, int]:
    heads = [[rng.randrange(100) for _ in range(24)] for _ in range(4)]
    with zmq.Context() as context:
        clients = [_connect(context, address) for _ in range(2)]
        for number in range(num_requests):
            client = clients[number % len(clients)]
            client.channel.send(_request(number, heads, rng))
            client.open[number] = 1 + (number % 7 == 0)
            client.read(rng.choice([0.0, 0.0, 0.001, 0.01]))
            if rng.random() < 0.15 and client.open:
                client.cancel(rng.sample(sorted(client.open), 1))
        leaver, stayer = clients
        leaver.channel.close()  # with requests open: what comes for it tells the scheduler
        until = time.monotonic() + TIMEOUT_S
        while stayer.open:
            assert time.monotonic() < until, f"{len(stayer.open)} requests never ended"
            stayer.read(0.01)
        stats = None
        while stats is None or stats.num_running:
            assert time.monotonic() < until, "the requests of the frontend that left never ended"
            stayer.channel.send(StatsRequest())
            stats = stayer.read(1.0)
        stayer.channel.close()
    return stats, sum(client.num_cancelled for client in clients)


def _connect(context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> Client:
    channel = Channel.connect(context, zmq.DEALER, address)
    channel.send(hello(Role.FRONTEND))
    assert isinstance(channel.receive(TIMEOUT_S), SchedulerReady)
    return Client(channel)


def _request(number: int, heads: list[list[int]], rng: random.Random) -> Submit:
    prompt = rng.choice(heads)[: rng.randrange(1, 25)] + [
        rng.randrange(100) for _ in range(rng.randrange(20))
    ]
    return Submit(
        request_id=number,
        prompt=column(prompt or [1]),
        generated=[],
        sampling=Sampling(1.0, 0, 1.0, number),
        max_tokens=rng.choice([1, 5, 20, 40]),
        stop_token_ids=column([7] if rng.random() < 0.05 else []),  # the sleeping worker's only token
        n=1 + (number % 7 == 0),
        priority=0,
        timeout_s=0.05 if number % 50 == 0 else 0.0,
        cache_salt="tenant" if number % 5 == 0 else "",
    )


if __name__ == "__main__":
    more = [int(word) for word in sys.argv[2:]]
    print(*record_live(Path(sys.argv[1]), **dict(zip(("num_requests", "seed"), more, strict=False))))
