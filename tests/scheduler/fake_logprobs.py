"""Log-probabilities of a worker that has none: each tells by its numbers where it belongs."""

from gllm.protocol.logits import Logprobs
from gllm.protocol.wire import column, floats


def made_up(positions: list[tuple[int, int, int, int]]) -> Logprobs:
    """Of each (place, position in the sequence, token there, number of entries)."""
    return Logprobs(
        places=column([place for place, _, _, _ in positions]),
        counts=column([count for _, _, _, count in positions]),
        ranks=column([position for _, position, _, _ in positions]),
        token_ids=column([t for _, _, token, count in positions for t in [token, *range(1, count)]]),
        values=floats([-position for _, position, _, count in positions for _ in range(count)]),
    )


def read(logprobs: Logprobs) -> list[tuple[int, int, int, int]]:
    """What `made_up` was made of."""
    found, start = [], 0
    for place, count, position in zip(logprobs.places, logprobs.counts, logprobs.ranks, strict=True):
        assert logprobs.token_ids[start + 1 : start + count].tolist() == list(range(1, count))
        assert set(logprobs.values[start : start + count]) == {-position}
        found.append((place, position, logprobs.token_ids[start], count))
        start += count
    assert start == len(logprobs.token_ids) == len(logprobs.values)
    return found
