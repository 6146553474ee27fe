"""Load on a gateway by one lean process: many connections, answers counted and not parsed.

    python -m bench.gateway_client PORT --connections 64 --seconds 5 --tokens 200 --stream --body JSON

Prints one JSON object: requests, tokens, events, milliseconds to the first event and between events,
and its own CPU seconds, which say whether it was the bottleneck. Knows HTTP's chunked framing just
well enough to see an answer's end.
"""

import argparse
import json
import resource
import selectors
import socket
import time
from dataclasses import dataclass, field

END = b"0\r\n\r\n"


@dataclass(slots=True)
class Figures:
    """What was seen; times in seconds."""

    num_requests: int = 0
    num_tokens: int = 0
    num_events: int = 0
    num_bytes: int = 0
    num_failed: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)


class Connection:
    """One client that sends its next request when the last one is answered."""

    def __init__(self, port: int, request: bytes, stream: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._stream = stream
        self.ask()

    def ask(self) -> None:
        self.began = self.last = time.perf_counter()
        self._tail = b""
        self._num_events = 0
        self._is_answered = False
        self.socket.sendall(self._request)

    def read(self, figures: Figures, tokens: int) -> None:
        """Take what is there; raises ConnectionError when the server closed."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        now = time.perf_counter()
        figures.num_bytes += len(data)
        seen = self._tail + data
        if not self._num_events and not self._is_answered:
            self._is_answered = True
            if b" 200 " not in seen[:20]:
                figures.num_failed += 1
        if self._stream:
            # An event's end may be cut in two by the socket: the last byte is looked at again.
            num_events = seen.count(b"\n\n")
            self._tail = b"\n" if seen.endswith(b"\n") and not seen.endswith(b"\n\n") else b""
            if num_events:
                if self._num_events:
                    figures.gaps.append(now - self.last)
                else:
                    figures.firsts.append(now - self.began)
                self.last = now
                self._num_events += num_events
            is_over = data.endswith(END) or (len(data) < 5 and self._ends(data))
        else:
            self._tail = seen
            is_over = _is_whole(seen)
        if is_over:
            figures.num_requests += 1
            figures.num_tokens += tokens
            figures.num_events += max(self._num_events - 1, 0)  # but for [DONE]
            figures.totals.append(now - self.began)
            self.ask()

    def _ends(self, data: bytes) -> bool:
        return END.endswith(data)


def _is_whole(seen: bytes) -> bool:
    head, found, body = seen.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
    return len(body) >= int(length)


def load(port: int, request: bytes, given: argparse.Namespace) -> tuple[Figures, float, float]:
    """Figures, seconds and CPU seconds of the measured time; the warm-up before it does not count."""
    selector = selectors.EpollSelector()
    clients = [Connection(port, request, given.stream) for _ in range(given.connections)]
    for client in clients:
        client.socket.setblocking(False)
        selector.register(client.socket, selectors.EVENT_READ, client)
    figures = Figures()
    begins = time.perf_counter() + given.warmup
    ends = begins + given.seconds
    cpu_before = 0.0
    is_warm = False
    while (now := time.perf_counter()) < ends:
        if not is_warm and now >= begins:
            is_warm, figures, cpu_before = True, Figures(), time.process_time()
            print("begin", flush=True)
        for key, _ in selector.select(0.1):
            key.data.read(figures, given.tokens)
    print("end", flush=True)
    return figures, time.perf_counter() - begins, time.process_time() - cpu_before


def quantiles_ms(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        name: round(1e3 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=200, help="that each answer has")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--path", default="/v1/completions")
    parser.add_argument("--body", required=True)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    body = given.body.encode()
    head = (
        f"POST {given.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    figures, seconds, cpu_s = load(given.port, head.encode() + body, given)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 3),
                "requests": figures.num_requests,
                "failed": figures.num_failed,
                "tokens": figures.num_tokens,
                "events": figures.num_events,
                "bytes": figures.num_bytes,
                "first_ms": quantiles_ms(figures.firsts),
                "gap_ms": quantiles_ms(figures.gaps),
                "total_ms": quantiles_ms(figures.totals),
                "client_cpu_s": round(cpu_s, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
