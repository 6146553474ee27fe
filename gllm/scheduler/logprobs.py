"""Log-probabilities on their way home: from the rows of a step to the rows of each frontend's message.

Called for a step that brought some; knows nothing of what the numbers mean.
"""

from collections.abc import Iterable, Iterator

from gllm.protocol.logits import Logprobs, PromptLogprobs
from gllm.protocol.messages import StepResult, Tokens
from gllm.protocol.wire import column, floats
from gllm.scheduler.flight import Flight


def no_tokens() -> Tokens:
    """A message to be filled."""
    return Tokens(column(), column(), column(), [], [])


def deliver_logprobs(result: StepResult, flight: Flight, messages: dict[bytes, Tokens]) -> None:
    """Put what `result` brought into `messages`, which hold its tokens; what of a struck row goes nowhere.

    Raises `ValueError` where the result speaks of rows that the plan has not.
    """
    if result.logprobs is not None:
        places = list(_rows_of_tokens(flight))
        for place, rank, token_ids, values in _positions(result.logprobs):
            frontend, row = places[place]
            if frontend is not None:
                message = messages[frontend]
                if message.logprobs is None:
                    message.logprobs = Logprobs(column(), column(), column(), column(), floats())
                _append(message.logprobs, row, rank, token_ids, values)
    for item in result.prompt_logprobs:
        if item.owner >= len(flight.rows):
            raise ValueError(f"log-probabilities of row {item.owner} of a plan with {len(flight.rows)} rows")
        sequence = flight.rows[item.owner]
        if sequence is not None:
            message = messages.setdefault(sequence.frontend, no_tokens())
            message.prompt_logprobs.append(PromptLogprobs(sequence.request_id, item.logprobs))


def _rows_of_tokens(flight: Flight) -> Iterator[tuple[bytes | None, int]]:
    """Of each sampled token: whose message has it, and in which row; (None, 0) where its row was struck."""
    num_rows: dict[bytes, int] = {}
    for sequence, samples in zip(flight.rows, flight.samples, strict=True):
        if not samples:
            continue
        if sequence is None:
            yield None, 0
        else:
            row = num_rows.get(sequence.frontend, 0)
            num_rows[sequence.frontend] = row + 1
            yield sequence.frontend, row


def _positions(logprobs: Logprobs) -> Iterator[tuple[int, int, "Iterable[int]", "Iterable[float]"]]:
    """Place, rank, token ids and values of each position."""
    start = 0
    for place, count, rank in zip(logprobs.places, logprobs.counts, logprobs.ranks, strict=True):
        end = start + count
        yield place, rank, logprobs.token_ids[start:end], logprobs.values[start:end]
        start = end


def _append(
    logprobs: Logprobs, place: int, rank: int, token_ids: "Iterable[int]", values: "Iterable[float]"
) -> None:
    logprobs.places.append(place)
    logprobs.ranks.append(rank)
    before = len(logprobs.token_ids)
    logprobs.token_ids.extend(token_ids)
    logprobs.values.extend(values)
    logprobs.counts.append(len(logprobs.token_ids) - before)
