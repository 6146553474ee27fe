"""A runner without a scheduler: plans made by hand, as mixed and as cruel as a test wants them."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gllm.checkpoint import open_checkpoint
from gllm.kernels.dispatch import operators
from gllm.protocol.messages import Admit, Sampling, StepPlan
from gllm.protocol.wire import column
from gllm.worker.models import load_model, longest_context, read_architecture
from gllm.worker.runner import ModelRunner, allocate_pages
from gllm.worker.slots import Slots

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)


def runner_of(
    path: Path,
    *,
    page_size: int = 16,
    num_pages: int = 512,
    num_slots: int = 16,
    dtype: torch.dtype = torch.float32,
    backend: str = "cpu",
    rope_theta: float | None = None,
    quantized: bool = False,
) -> ModelRunner:
    """The checkpoint at `path`, ready to step."""
    checkpoint = open_checkpoint(path)
    device, ops = torch.device("cpu"), operators(backend, dtype)
    facts = read_architecture(checkpoint, rope_theta)
    model = load_model(checkpoint, dtype, device, ops, facts=facts, quantized=quantized)
    length = longest_context(checkpoint, model.facts)
    slots = Slots(num_slots, num_pages, page_size, length, checkpoint.vocab_size, device)
    pages = allocate_pages(model.facts, num_pages, page_size, dtype, device)
    return ModelRunner(model, slots, pages, ops, max_num_batched_tokens=4096)


@dataclass
class Running:
    """A sequence as the planner by hand sees it."""

    tokens: list[int]
    num_prompt_tokens: int
    sampling: Sampling
    slot: int = -1
    num_computed: int = 0
    pages: list[int] = field(default_factory=list)
    first_logits: torch.Tensor | None = None

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]


def generate(
    runner: ModelRunner,
    prompts: list[list[int]],
    num_tokens: int,
    *,
    samplings: list[Sampling] | None = None,
    chunk: int = 1 << 20,
    admitted_per_step: int = 1 << 20,
    num_preemptions: int = 0,
    seed: int = 0,
) -> list[Running]:
    """All prompts in one batch: chunks of `chunk` tokens, pages in random order, and at every fifth
    step, `num_preemptions` times, some sequence loses slot and pages, to be computed anew."""
    draw = random.Random(seed)
    slots = runner.slots
    free_pages = list(range(slots.pool_pages))
    draw.shuffle(free_pages)
    free_slots = list(range(slots.num_slots))
    samplings = samplings or [GREEDY] * len(prompts)
    waiting = [Running(list(p), len(p), s) for p, s in zip(prompts, samplings, strict=True)]
    everyone, running, released = list(waiting), [], []
    step = 0
    while waiting or running:
        admits, page_slots, new_pages = [], [], []
        if num_preemptions and step % 5 == 4:
            num_preemptions -= 1
            victim = running.pop(draw.randrange(len(running)))
            _leave(victim, free_pages, free_slots, released)
            waiting.append(victim)
        for sequence in waiting[:admitted_per_step]:
            sequence.slot = free_slots.pop(draw.randrange(len(free_slots)))
            sequence.num_computed = 0
            admits.append(
                Admit(
                    slot=sequence.slot,
                    tokens=column(sequence.tokens),
                    num_prompt_tokens=sequence.num_prompt_tokens,
                    num_computed_tokens=0,
                    pages=column(),
                    sampling=sequence.sampling,
                )
            )
            running.append(sequence)
        waiting = waiting[admitted_per_step:]
        draw.shuffle(running)
        counts = [min(chunk, len(s.tokens) - s.num_computed) for s in running]
        for sequence, count in zip(running, counts, strict=True):
            while len(sequence.pages) * slots.page_size < sequence.num_computed + count:
                sequence.pages.append(free_pages.pop())
                page_slots.append(sequence.slot)
                new_pages.append(sequence.pages[-1])
        plan = StepPlan(
            epoch=0,
            step=step,
            slots=column([s.slot for s in running]),
            counts=column(counts if max(counts) > 1 else []),
            page_slots=column(page_slots),
            new_pages=column(new_pages),
            admits=admits,
            released=column(released),
        )
        released = []
        batch = runner.batch_of(plan)
        logits = runner.logits(batch)
        tokens = iter(zip(runner.sample(batch, logits).tokens.tolist(), logits, strict=True))
        runner.slots.check()
        for sequence, count in zip(list(running), counts, strict=True):
            sequence.num_computed += count
            if sequence.num_computed < len(sequence.tokens):
                continue
            token, row = next(tokens)
            if sequence.first_logits is None:
                sequence.first_logits = row.clone()
            sequence.tokens.append(token)
            if len(sequence.generated) == num_tokens:
                running.remove(sequence)
                _leave(sequence, free_pages, free_slots, released)
        assert next(tokens, None) is None
        step += 1
    empty = column()
    runner.slots.apply(StepPlan(0, step, empty, empty, empty, empty, [], column(released)))
    runner.slots.check()
    return everyone


def _leave(sequence: Running, free_pages: list[int], free_slots: list[int], released: list[int]) -> None:
    released.append(sequence.slot)
    free_slots.append(sequence.slot)
    free_pages.extend(sequence.pages)
    sequence.pages.clear()
