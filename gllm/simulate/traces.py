"""Request traces: arrivals, lengths and shared prefixes, read from gzip'd or plain JSON lines.

The first line is a header `{"trace", "block", ...}`; every other line is a request
`{"t": seconds, "in": prompt tokens, "out": output tokens, "b": [ids of prompt blocks]}`, `b` only
where prompts share. A trace holds no tokens: `Prompts` makes them up, so that prompts agree exactly
where their blocks do. Knows nothing of the engine that will serve them.
"""

import gzip
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
# Where a piece of made-up text begins: an odd stride visits every one of the starts before it repeats.
NUM_STARTS = 1 << 20
STRIDE = 0x9E375
SEED = 1


class TraceError(ValueError):
    """The file is not a trace, or cannot be changed as asked; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace."""

    arrival_s: float  # after the first one
    num_prompt_tokens: int
    num_output_tokens: int
    blocks: tuple[int, ...] = ()  # of the prompt; empty: it shares nothing


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival."""

    name: str
    block_size: int  # tokens; 0: no prompt shares anything
    requests: list[TraceRequest]

    @property
    def span_s(self) -> float:
        return self.requests[-1].arrival_s - self.requests[0].arrival_s

    @property
    def rate(self) -> float:
        """Requests per second; infinite if all arrive at once."""
        return len(self.requests) / self.span_s if self.span_s else float("inf")

    def first(self, count: int) -> "Trace":
        """The first `count` requests."""
        return replace(self, requests=self.requests[:count])

    def at_rate(self, rate: float) -> "Trace":
        """The same requests at `rate` a second: time is stretched, bursts stay bursts."""
        if not self.span_s:
            raise TraceError(f"all requests of {self.name} arrive at once: its rate cannot be changed")
        stretch = self.rate / rate
        requests = [replace(request, arrival_s=request.arrival_s * stretch) for request in self.requests]
        return replace(self, requests=requests)

    def shortened(self, divisor: int) -> "Trace":
        """Every length divided by `divisor` (at least one token each), blocks too: for small models."""
        if self.block_size % divisor:
            raise TraceError(
                f"blocks of {self.block_size} tokens cannot be divided by {divisor}: choose a divisor of it"
            )
        requests = [
            replace(
                request,
                num_prompt_tokens=max(request.num_prompt_tokens // divisor, 1),
                num_output_tokens=max(request.num_output_tokens // divisor, 1),
            )
            for request in self.requests
        ]
        return replace(self, block_size=self.block_size // divisor, requests=requests)

    def shareable(self) -> float:
        """The share of prompt tokens in leading blocks that an earlier request had: what a cache that
        forgets nothing could save at most."""
        nodes: dict[tuple[int, int], int] = {}  # (what stands before, block) -> the prefix that they make
        num_shared = 0
        for request in self.requests:
            prefix, num_known = -1, 0
            for number, block in enumerate(request.blocks):
                if (prefix, block) in nodes:
                    num_known = number + 1
                prefix = nodes.setdefault((prefix, block), len(nodes))
            num_shared += min(num_known * self.block_size, request.num_prompt_tokens)
        return num_shared / sum(request.num_prompt_tokens for request in self.requests)


class Prompts:
    """The tokens of a trace's prompts: pieces of one random text, each block id or request its own."""

    def __init__(self, trace: Trace, vocab_size: int) -> None:
        self._trace = trace
        longest = max(request.num_prompt_tokens for request in trace.requests)
        random = np.random.default_rng(SEED)
        text = random.integers(0, vocab_size, NUM_STARTS + max(longest, trace.block_size), np.int32)
        self._text = array("i", text.tobytes())

    def tokens(self, index: int) -> "array[int]":
        """The prompt of request number `index`."""
        request = self._trace.requests[index]
        if not request.blocks:
            return self._piece(index, request.num_prompt_tokens)
        tokens = array("i")
        for block in request.blocks:
            tokens.extend(self._piece(block, self._trace.block_size))
        return tokens[: request.num_prompt_tokens]

    def _piece(self, number: int, size: int) -> "array[int]":
        start = number * STRIDE % NUM_STARTS
        return self._text[start : start + size]


def read_trace(path: str | Path) -> Trace:
    """The trace in the file; raises `TraceError` with the number of the first line that is wrong."""
    raw = Path(path).read_bytes()
    try:
        lines = (gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw).decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} is no trace: {error}") from error
    rows = _rows(path, lines)
    header = next(rows, {})
    block_size = header.get("block", 0)
    if type(block_size) is not int or block_size < 0:
        raise TraceError(f"{path}:1: block is {block_size!r:.80}, expected a number of tokens, or 0")
    requests = [_request(f"{path}:{line}", row, block_size) for line, row in enumerate(rows, start=2)]
    if not requests:
        raise TraceError(f"{path} holds no request: expected a header line and one line a request")
    requests.sort(key=lambda request: request.arrival_s)
    return Trace(str(header.get("trace", Path(path).name)), block_size, requests)


def _rows(path: str | Path, lines: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TraceError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise TraceError(f"{path}:{number}: expected a JSON object, got {line:.80}")
        yield row


def _request(place: str, row: dict[str, Any], block_size: int) -> TraceRequest:
    arrival: Any = row.get("t")
    num_prompt: Any = row.get("in")
    num_output: Any = row.get("out")
    blocks = row.get("b", [])
    if type(arrival) not in (int, float) or not 0 <= arrival < float("inf"):
        raise TraceError(f"{place}: t is {arrival!r:.80}, expected seconds")
    for name, count in (("in", num_prompt), ("out", num_output)):
        if type(count) is not int or count < 1:
            raise TraceError(f"{place}: {name} is {count!r:.80}, expected a number of tokens above 0")
    if type(blocks) is not list or not all(type(block) is int and block >= 0 for block in blocks):
        raise TraceError(f"{place}: b is {blocks!r:.80}, expected a list of block ids")
    if blocks and len(blocks) * block_size < num_prompt:
        raise TraceError(f"{place}: {len(blocks)} blocks of {block_size} are less than {num_prompt} tokens")
    return TraceRequest(float(arrival), num_prompt, num_output, tuple(blocks))
