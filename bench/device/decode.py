"""Part 4: steps of a model of Llama 3 8B's shape with random weights, through the worker's own launch path.

Decode steps as graphs and call by call, with one and two plans in flight; a prefill of one full step.
"""

import statistics
from functools import partial

import torch

from bench.device.clock import ClockedGpu
from bench.device.engine import Engine
from bench.device.llama import floor_of, make, prompt
from bench.device.machine import Machine
from gllm.worker.runner import ModelRunner

CONTEXT = 1024  # tokens of each prompt
WARM_UP, TIMED = 12, 64  # steps of a batch that decodes


def run(machine: Machine) -> None:
    machine.ceiling("copy")
    machine.ceiling("matmul")
    for cuda_graphs in (True, False):
        machine.attempt("graphs" if cuda_graphs else "eager", partial(time_model, machine, cuda_graphs))
        machine.release()


def time_model(machine: Machine, cuda_graphs: bool) -> None:
    device = None if machine.is_dry else ClockedGpu(torch.device("cuda", torch.cuda.current_device()))
    runner = make(machine, device, cuda_graphs=cuda_graphs)
    for batch in (2,) if machine.is_dry else (1, 8, 64, 256):
        for depth in (2, 1):
            name = f"decode {batch}, {'graphs' if cuda_graphs else 'eager'}, {depth} in flight"
            machine.attempt(name, partial(time_decode, machine, runner, device, batch, depth))
    if cuda_graphs:
        machine.attempt("prefill", partial(time_prefill, machine, runner))


def time_decode(
    machine: Machine, runner: ModelRunner, device: ClockedGpu | None, batch: int, depth: int
) -> None:
    context, warm_up, timed = (20, 2, 2) if machine.is_dry else (CONTEXT, WARM_UP, TIMED)
    engine = Engine(runner, depth)
    for number in range(batch):
        # All of them decode together until the last: one prompt more fills the same step or the next.
        engine.submit(prompt(number, context, runner.slots.vocab_size), warm_up + timed + batch)
    if device is not None:
        device.forget()
    engine.run()
    full = [index for index, step in enumerate(engine.steps) if step.is_decode and step.num_rows == batch]
    chosen = full[warm_up : warm_up + timed]
    seconds = statistics.median(engine.steps[index].seconds for index in chosen)
    floor = floor_of(runner).seconds(machine, batch, context + warm_up + timed / 2)
    measured = {}
    if device is not None:
        first, last = chosen[0], chosen[-1] + 1
        measured = {
            "busy_us": device.busy_seconds(first, last) * 1e6,
            "idle_share": device.idle_share(first, last),
        }
    machine.emit(
        "decode", batch=batch, graphs=runner.has_graphs, plans_in_flight=depth, context=context,
        steps=len(chosen), tokens_per_s=batch / seconds,
        step_us=seconds * 1e6, floor_us=floor * 1e6, of_floor=floor / seconds,
        **measured,
    )  # fmt: skip


def time_prefill(machine: Machine, runner: ModelRunner) -> None:
    """One prompt that fills a step, and eight that do so together."""
    length = runner.max_num_batched_tokens
    facts = runner.model.facts
    weights = facts.num_parameters() - 2 * facts.vocab_size * facts.hidden_size
    for count in (1, 8):
        seconds = []
        for attempt in range(1 if machine.is_dry else 4):
            engine = Engine(runner, 1)
            for number in range(count):
                engine.submit(prompt(1000 * attempt + number, length // count, facts.vocab_size), 1)
            engine.run()
            seconds.append(sum(step.seconds for step in engine.steps))
        best = min(seconds)
        attention = 2 * facts.num_layers * facts.num_heads * facts.head_dim * length * (length // count)
        operations = 2 * weights * length + attention  # causal: half of the 4 * d * n^2 of both products
        machine.emit(
            "prefill", prompts=count, tokens=length, tokens_per_s=length / best, ms=best * 1e3,
            of_matmul_rate=operations / best / machine.ceiling("matmul"),
        )  # fmt: skip
