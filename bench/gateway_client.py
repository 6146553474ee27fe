"""Load on a gateway by one lean process: many connections, answers counted and not parsed.

    python -m bench.gateway_client PORT --connections 64 --seconds 5 --body JSON [--stream --words JSON]

Prints one JSON object: requests, tokens, events, milliseconds to the first event, between events, and from
the making of a token (`bench.null_steps`) to its arrival; and its own CPU seconds, which say whether it was
the bottleneck. Knows HTTP's framing just well enough to see an answer's end, and that nothing but a token,
which is a word, has a space in an event.
"""

import argparse
import json
import re
import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.null_steps import age_ns

LOOK_AT_EACH = 17  # reading words costs more than all else: those of some reads are enough
END = b"0\r\n\r\n"
TEXT = re.compile(rb'"text":"( [a-z ]+)"')


@dataclass(slots=True)
class Figures:
    """What was seen; times in seconds."""

    num_requests: int = 0
    num_tokens: int = 0
    num_events: int = 0
    num_reads: int = 0
    num_failed: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)


class Connection:
    """One client, which asks when it is told to. places: of the words that tell the time, if wanted."""

    def __init__(self, port: int, request: bytes, stream: bool, places: Mapping[bytes, int]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._request = request
        self._stream = stream
        self._places = places

    def ask(self, due: float) -> None:
        """due: when that should have been, from which on the answer is waited for."""
        self.began = due
        self.last: float | None = None  # when the last event came
        self._seen = b""
        self._is_begun = False
        self.socket.sendall(self._request)

    def read(self, figures: Figures) -> bool:
        """Take what is there; whether the answer is over. Raises ConnectionError when the server closed."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        now_ns = time.monotonic_ns()
        seen = self._seen + data
        if not self._is_begun:
            self._is_begun = True
            figures.num_failed += b" 200 " not in seen[:20]
            if self._stream:
                seen = seen.partition(b"\r\n\r\n")[2]
        is_over = seen.endswith(END) if self._stream else _is_whole(seen)
        if self._stream:
            # What the socket cut in two is looked at again.
            end = seen.rfind(b"\n\n") + 2 if b"\n\n" in seen else 0
            self._seen = seen[end:]
            if end:
                self._take(seen[:end], now_ns, figures)
            figures.num_events -= is_over  # [DONE] is none
        else:
            self._seen = seen
            figures.num_tokens += len(_words(seen)) if is_over else 0
        if is_over:
            figures.num_requests += 1
            figures.totals.append(now_ns / 1e9 - self.began)
        return is_over

    def _take(self, events: bytes, now_ns: int, figures: Figures) -> None:
        """Whole events."""
        now = now_ns / 1e9
        if self.last is None:
            figures.firsts.append(now - self.began)
        else:
            figures.gaps.append(now - self.last)
        self.last = now
        num_events = events.count(b"\n\n")
        figures.num_events += num_events
        figures.num_tokens += events.count(b" ") - num_events  # each has one space behind "data:"
        figures.num_reads += 1
        if self._places and not figures.num_reads % LOOK_AT_EACH:
            figures.ages += [age_ns(self._places[word], now_ns) / 1e9 for word in _words(events)]


def _words(seen: bytes) -> list[bytes]:
    """The tokens of an answer, or of events."""
    return [word for text in TEXT.findall(seen) for word in text.split()]


def _is_whole(seen: bytes) -> bool:
    head, found, body = seen.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
    return len(body) >= int(length)


def load(port: int, request: bytes, given: argparse.Namespace) -> tuple[Figures, float, float]:
    """Figures, seconds and CPU seconds of the measured time; the warm-up before it does not count."""
    places = {word.strip().encode(): place for place, word in enumerate(json.loads(given.words))}
    selector = selectors.EpollSelector()
    idle: deque[Connection] = deque()
    for _ in range(given.connections):
        idle.append(Connection(port, request, given.stream, places))
        selector.register(idle[-1].socket, selectors.EVENT_READ, idle[-1])
    figures = Figures()
    now = due = time.monotonic()
    begins = now + given.warmup
    # Without a rate the first questions are spread over the warm-up: answers of one length would end as one.
    pause = 1 / given.rate if given.rate else given.warmup / given.connections
    ends = begins + given.seconds
    cpu_before = 0.0
    is_warm = False
    while (now := time.monotonic()) < ends:
        if not is_warm and now >= begins:
            is_warm, figures, cpu_before = True, Figures(), time.process_time()
            print("begin", flush=True)
        while idle and due <= now:
            idle.popleft().ask(due if given.rate else now)
            if given.rate or due < begins:
                due += pause
        timeout_s = min(max(due - now, 0), 0.1) if idle else 0.1
        for key, _ in selector.select(timeout_s):
            if key.data.read(figures):
                idle.append(key.data)
        if given.every_ms:
            time.sleep(given.every_ms / 1e3)
    print("end", flush=True)
    return figures, time.monotonic() - begins, time.process_time() - cpu_before


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
    parser.add_argument(
        "--rate", type=float, help="requests a second (default: each as the last is answered)"
    )
    parser.add_argument("--every-ms", type=float, help="look this seldom, for less CPU and useless times")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--words", default="[]", help="a JSON list: the words that tell the time")
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
                "first_ms": quantiles_ms(figures.firsts),
                "gap_ms": quantiles_ms(figures.gaps),
                "age_ms": quantiles_ms(figures.ages),
                "total_ms": quantiles_ms(figures.totals),
                "client_cpu_s": round(cpu_s, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
