"""Part 2, what changes and reads logits: every kernel against the reference, on a vocabulary of real size."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from bench.device.machine import Machine
from gllm.kernels import logits as kernels
from gllm.kernels import reference
from gllm.kernels.logprobs import logprobs
from gllm.kernels.reference_logits import IN_PROMPT
from gllm.kernels.sampling import sample

MOST_ERROR = 1e-5


def checks(machine: Machine) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "logits in place", partial(check_in_place, machine)
    yield "log-probabilities", partial(check_logprobs, machine)
    yield "min_p", partial(check_min_p, machine)


def sizes(machine: Machine) -> tuple[int, int]:
    """Rows and vocabulary; odd, so that borders are met."""
    return (6, 901) if machine.is_dry else (67, 151_937)


def check_in_place(machine: Machine) -> None:
    """Each operator on its own rows of the same logits, in the order in which they are applied."""
    rows, vocab = sizes(machine)
    device, slots, window = machine.device, 2 * rows, 8
    got = torch.randn(rows, vocab, device=device) * 3
    want = got.clone()
    some = torch.randperm(rows, device=device)[: rows // 2]
    places = torch.randperm(slots, device=device)[: len(some)]
    bits = torch.randint(-(2**31), 2**31, (len(some), -(-vocab // 32)), device=device).int()
    recent = torch.randint(-1, 3, (slots, window), device=device).int()
    words = torch.randint(0, 3, (len(some), 5), device=device).int()
    words[::2, :3] = -1
    position = torch.randint(0, 999, (len(some),), device=device)
    tokens = torch.randint(0, vocab, (len(some),), device=device)
    values = torch.randn(len(some), device=device)
    values[::3] = float("-inf")
    counts = torch.randint(-5, 4, (slots, vocab), device=device).clamp(min=0).int()
    counts[:, ::7] |= IN_PROMPT
    factors = [torch.rand(len(some), device=device) + 0.5 for _ in range(3)]
    steps: list[tuple[str, tuple[Tensor, ...]]] = [
        ("apply_masks", (some, bits)),
        ("ban_words", (some, places, position, words, recent)),
        ("add_to_logits", (some, tokens, values)),
        ("penalize", (some, places, counts, *factors)),
    ]
    for name, arguments in steps:
        getattr(kernels, name)(got, *arguments)
        getattr(reference, name)(want, *arguments)
        forbidden = want.isinf()
        error = float((got - want).masked_fill(forbidden, 0.0).abs().max())
        machine.emit(
            "correctness", kernel=name, shape=f"{rows} x {vocab}", error=error, limit=MOST_ERROR,
            ok=error <= MOST_ERROR and torch.equal(got.isinf(), forbidden),
        )  # fmt: skip


def check_logprobs(machine: Machine) -> None:
    """Of distinct logits and of many equal ones, of which the lower id comes first."""
    rows, vocab = sizes(machine)
    for num_top in (0, 1, 20, 100):
        logits = torch.randn(rows, vocab, device=machine.device) * 3
        logits[::2] = logits[::2].round()
        tokens = torch.randint(0, vocab, (rows,), device=machine.device)
        got, want = logprobs(logits, tokens, num_top), reference.logprobs(logits, tokens, num_top)
        error = float((got[2] - want[2]).abs().max())
        machine.emit(
            "correctness", kernel="logprobs", shape=f"{rows} x {vocab}, {num_top}", error=error, limit=1e-4,
            ok=error <= 1e-4 and torch.equal(got[0], want[0]) and torch.equal(got[1], want[1]),
        )  # fmt: skip


def check_min_p(machine: Machine) -> None:
    """The reference's tokens; one draw in a hundred may fall on the other side of a rounded border."""
    rows, vocab = sizes(machine)
    device = machine.device
    index = torch.arange(rows, device=device)
    seed = torch.randint(0, 2**63 - 1, (rows,), device=device)
    temperature = torch.tensor([0.6, 1.0, 1.5], device=device)[index % 3]
    top_k = torch.tensor([0, 0, 20, 1000], device=device, dtype=torch.int32)[index % 4]
    top_p = torch.tensor([1.0, 1.0, 0.95, 0.5, 1.0], device=device)[index % 5]
    log_min_p = torch.tensor([0.0, 1e-6, 0.01, 0.3, 1.0, 0.05, 0.1], device=device).log()[index % 7]
    for spread in (0.5, 3.0):
        logits = torch.randn(rows, vocab, device=device) * spread
        columns = temperature, top_k, top_p, seed, index, log_min_p
        differing = int((sample(logits, *columns) != reference.sample(logits, *columns)).sum())
        machine.emit(
            "correctness", kernel="sample, min_p", shape=f"{rows} x {vocab}, spread {spread}",
            differing=differing, limit=rows // 100 + 1, ok=differing <= rows // 100 + 1,
        )  # fmt: skip
