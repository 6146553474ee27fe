"""The table of a comparison: medians, spread, and the ratio of ours to the best peer.

Knows the lines of a result file (see `bench.compare`), not how they were measured.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.peers.engines import OURS

RATES = {"offline": "num_output_tokens", "decode": "num_output_tokens", "prefill": "num_prompt_tokens"}
MIB = 2**20
LEGEND = (
    "Medians [lowest, highest]. offline, decode: output tokens a second; prefill: prompt tokens a second.",
    "start: seconds from the command to the first token. memory: peak of all processes, MiB. others: cores",
    "that other programs took at most. equal: offline outputs of the first round equal to ours.",
)


@dataclass
class Row:
    """What is known of one engine with one dtype."""

    engine: str
    dtype: str
    version: str = ""
    ready_s: float | None = None
    first_token_s: float | None = None
    failure: str = ""
    peak_bytes: int = 0
    foreign: float = 0.0  # the most cores that other programs took
    first_tokens: list[int] = field(default_factory=list)
    digests: dict[str, list[str]] = field(default_factory=dict)
    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)  # by kind and number of requests

    def median(self, kind: str, count: int) -> float | None:
        found = self.rates.get((kind, count))
        return statistics.median(found) if found else None


def rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """One row an engine and dtype, in the order in which they were started."""
    found: dict[str, Row] = {}
    for line in lines:
        if "engine" not in line:
            continue
        row = found.setdefault(f"{line['engine']}/{line['dtype']}", Row(line["engine"], line["dtype"]))
        if "failure" in line:
            row.failure = line["failure"]
        elif line["kind"] == "start":
            row.version, row.ready_s, row.first_token_s = (
                line[key] for key in ("version", "ready_s", "first_token_s")
            )
        else:
            rate = line[RATES[line["kind"]]] / line["seconds"]
            row.rates.setdefault((line["kind"], line["count"]), []).append(rate)
            row.peak_bytes = max(row.peak_bytes, line["peak_bytes"])
            row.foreign = max(row.foreign, line["foreign_cores"])
            if line["kind"] == "decode" and line["round"] == "0":
                row.first_tokens = line["first_tokens"]
            if line["round"] == "0":
                row.digests[f"{line['kind']} {line['count']}"] = line["digests"]
    return list(found.values())


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The comparison as text, one block a dtype."""
    everything = rows(lines)
    count = max((count for row in everything for kind, count in row.rates if kind == "offline"), default=0)
    for dtype in dict.fromkeys(row.dtype for row in everything):
        group = [row for row in everything if row.dtype == dtype]
        yield from _block(dtype, group, count)
    yield from LEGEND


def _block(dtype: str, group: list[Row], count: int) -> Iterator[str]:
    columns = (("offline", count), ("decode", 1), ("prefill", 1))
    yield (
        f"{dtype:<24}{f'offline, {count} requests':>24}{'decode':>22}{'prefill':>24}{'start':>8}{'memory':>9}"
        f"{'others':>8}{'equal':>8}"
    )
    ours = next((row for row in group if row.engine == OURS), None)
    for row in group:
        name = f"{row.engine} {row.version.split(' ')[0]}"
        if row.failure:
            yield f"  {name:<22}  failed: {row.failure}"
            continue
        cells = "".join(
            _cell(row.rates.get(key), width) for key, width in zip(columns, (24, 22, 24), strict=True)
        )
        start = f"{row.first_token_s:>8.1f}" if row.first_token_s is not None else f"{'-':>8}"
        memory = f"{row.peak_bytes / MIB:>9.0f}"
        yield f"  {name:<22}{cells}{start}{memory}{row.foreign:>8.2f}{_equal(row, ours):>8}"
    if ours is not None and not ours.failure:
        yield from _ratios(ours, [row for row in group if row is not ours and not row.failure], columns)
    yield ""


def _ratios(ours: Row, peers: list[Row], columns: Sequence[tuple[str, int]]) -> Iterator[str]:
    others = [row for row in peers if not row.engine.startswith(OURS)]
    if others:
        yield _to_best("ours", ours, others, columns)
    for peer in peers:
        if peer not in others and others:
            yield _to_best(peer.engine.removeprefix(f"{OURS} "), peer, others, columns)
        yield f"  {f'ours / {peer.engine}':<22}" + "".join(
            _ratio(ours.median(*key), peer.median(*key), width)
            for key, width in zip(columns, (24, 22, 24), strict=True)
        )


def _to_best(name: str, row: Row, others: list[Row], columns: Sequence[tuple[str, int]]) -> str:
    """The ratios of one of our ways to the best of other engines."""
    rates = "".join(
        _ratio(row.median(*key), _best(others, key), width)
        for key, width in zip(columns, (24, 22, 24), strict=True)
    )
    start = _ratio(row.first_token_s, min(other.first_token_s or 1e9 for other in others), 8)
    memory = _ratio(row.peak_bytes, min(other.peak_bytes for other in others), 9)
    return f"  {f'{name} / best peer':<22}{rates}{start}{memory}"


def _best(peers: list[Row], key: tuple[str, int]) -> float | None:
    return max((found for row in peers if (found := row.median(*key)) is not None), default=None)


def _ratio(ours: float | None, theirs: float | None, width: int) -> str:
    return f"{ours / theirs:>{width}.2f}" if ours and theirs else f"{'-':>{width}}"


def _cell(rates: list[float] | None, width: int) -> str:
    if not rates:
        return f"{'-':>{width}}"
    return f"{f'{statistics.median(rates):.1f} [{min(rates):.1f}, {max(rates):.1f}]':>{width}}"


def _equal(row: Row, ours: Row | None) -> str:
    """How many offline outputs are ours; the first tokens of the decode alone where that was not measured."""
    if ours is None:
        return "-"
    pairs = [
        (one, other)
        for key, digests in row.digests.items()
        if key.startswith("offline")
        for one, other in zip(digests, ours.digests.get(key, []), strict=False)
    ]
    return f"{sum(one == other for one, other in pairs)}/{len(pairs)}" if pairs else "-"
