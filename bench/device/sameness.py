"""Part 6: greedy tokens do not depend on graphs, nor on who shares the batch.

Each prompt is continued alone, then all together, with graphs and call by call. Where two runs part, what
follows differs of itself: the measure is how many sequences are equal throughout, and where the others part.
"""

from functools import partial

from bench.device.engine import Engine
from bench.device.llama import make, prompt
from bench.device.machine import Machine
from gllm.worker.runner import ModelRunner

PROMPT, OUTPUT, BATCH, ALONE = 100, 64, 64, 16  # so many of the batch run alone, too

Tokens = list[list[int]]


def run(machine: Machine) -> None:
    found: dict[str, Tokens] = {}
    for cuda_graphs in (True, False):
        machine.attempt("graphs" if cuda_graphs else "eager", partial(generate, machine, found, cuda_graphs))
        machine.release()
    for one, other in (("graphs", "eager"), ("graphs", "graphs, alone"), ("eager", "eager, alone")):
        if one in found and other in found:
            compare(machine, one, found[one], other, found[other])


def generate(machine: Machine, found: dict[str, Tokens], cuda_graphs: bool) -> None:
    runner = make(machine, cuda_graphs=cuda_graphs)
    name = "graphs" if cuda_graphs else "eager"
    batch, alone = (3, 2) if machine.is_dry else (BATCH, ALONE)
    for _ in range(2):  # the second time everything that can be a graph is one
        found[name] = tokens_of(machine, runner, list(range(batch)))
    found[f"{name}, alone"] = [tokens_of(machine, runner, [number])[0] for number in range(alone)]


def tokens_of(machine: Machine, runner: ModelRunner, numbers: list[int]) -> Tokens:
    length, count = (9, 4) if machine.is_dry else (PROMPT, OUTPUT)
    engine = Engine(runner, 2)
    for number in numbers:
        engine.submit(prompt(number, length, runner.slots.vocab_size), count)
    engine.run()
    return list(engine.tokens.values())


def compare(machine: Machine, one: str, some: Tokens, other: str, others: Tokens) -> None:
    pairs = list(zip(some, others, strict=False))
    equal = [a == b for a, b in pairs]
    parted = [[x == y for x, y in zip(a, b, strict=True)].index(False) for a, b in pairs if a != b]
    machine.emit(
        "sameness", one=one, other=other, sequences=len(pairs), equal=sum(equal),
        first_difference=min(parted, default=-1), ok=all(equal),
    )  # fmt: skip
