"""Timed traces: arrivals, lengths and shared prefixes, read from JSON lines, gzip'd or plain.

The first line is a header `{"trace", "block", ...}`; every other line is a request
`{"t": seconds, "in": prompt tokens, "out": output tokens, "b": [ids of prompt blocks]}`. A trace holds
no tokens; `prompt` makes them up. Knows nothing of the engine that will serve them.
"""

import gzip
import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gllm.config import ConfigError

GZIP_MAGIC = b"\x1f\x8b"


class TraceError(ConfigError):
    """The file is not a trace, or cannot be changed as asked; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace; without blocks it shares nothing with others."""

    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival. block_size: tokens of one block; 0 where no prompt shares anything."""

    name: str
    block_size: int
    requests: list[TraceRequest]

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].arrival_s - self.requests[0].arrival_s

    @property
    def rate(self) -> float:
        """Requests a second; infinite if all arrive at once."""
        return len(self.requests) / self.span_s if self.span_s else float("inf")

    def first(self, count: int) -> "Trace":
        """The first `count` requests."""
        return replace(self, requests=self.requests[:count])

    def at_rate(self, rate: float) -> "Trace":
        """The same requests at `rate` a second: time is stretched, bursts stay bursts."""
        if not rate > 0:
            raise TraceError(f"the request rate is {rate:g}, expected a number above 0")
        if not self.span_s:
            raise TraceError(f"all requests of {self.name} arrive at once: its rate cannot be changed")
        return self.slowed(self.rate / rate)

    def slowed(self, factor: float) -> "Trace":
        """The same requests, every arrival `factor` times as late; 0 makes all arrive at once."""
        return replace(
            self, requests=[replace(one, arrival_s=one.arrival_s * factor) for one in self.requests]
        )

    def shortened(self, divisor: int) -> "Trace":
        """Every length divided by `divisor` (at least one token each), blocks too: for small models."""
        if divisor < 1 or self.block_size % divisor:
            raise TraceError(
                f"blocks of {self.block_size} tokens cannot be divided by {divisor}: choose a divisor of it"
            )
        requests = [
            replace(
                one,
                num_prompt_tokens=max(one.num_prompt_tokens // divisor, 1),
                num_output_tokens=max(one.num_output_tokens // divisor, 1),
            )
            for one in self.requests
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

    def prompt(self, index: int, tokens: Callable[[str, int, int], "array[int]"]) -> "array[int]":
        """The prompt of request number `index`.

        tokens: gives `count` tokens that only (kind, number) decide: equal blocks, equal tokens.
        """
        one = self.requests[index]
        if not one.blocks:
            return tokens("request", index, one.num_prompt_tokens)
        made = array("i")
        for block in one.blocks:
            made.extend(tokens("block", block, self.block_size))
        return made[: one.num_prompt_tokens]


def read_trace(path: str | Path) -> Trace:
    """The trace in the file; raises `TraceError` with the number of the first line that is wrong."""
    raw = Path(path).read_bytes()
    try:
        lines = (gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw).decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} is no trace: {error}") from error
    header, *rows = [_object(f"{path}:{number}", line) for number, line in enumerate(lines, 1)] or [{}]
    block_size = header.get("block", 0)
    if type(block_size) is not int or block_size < 0:
        raise TraceError(f"{path}:1: block is {block_size!r:.80}, expected a number of tokens, or 0")
    requests = [_request(f"{path}:{number}", row, block_size) for number, row in enumerate(rows, 2)]
    if not requests:
        raise TraceError(f"{path} holds no request: expected a header line and one line a request")
    requests.sort(key=lambda one: one.arrival_s)
    return Trace(str(header.get("trace", Path(path).name)), block_size, requests)


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{place}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise TraceError(f"{place}: expected a JSON object, got {line:.80}")
    return row


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
