"""The real scheduler core and the real runner in one process, with too few pages, against transformers."""

import random
from collections import deque
from pathlib import Path

import pytest
from hand_made import GREEDY, generate, runner_of
from oracle import BASIC, SHAPES, greedy, random_model, write

from gllm.protocol.messages import Sampling, StepPlan, StepResult, Submit, WorkerReady
from gllm.protocol.wire import INT32_MAX, column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs
from gllm.worker.runner import ModelRunner

NUM_TOKENS = 64
EPOCH = 1


def serve(runner: ModelRunner, core: Scheduler, requests: list[Submit], depth: int) -> dict[int, list[int]]:
    """The tokens of each request with `depth` plans in flight; requests arrive two a step."""
    arriving = deque(requests)
    generated: dict[int, list[int]] = {request.request_id: [] for request in requests}
    finished: set[int] = set()
    flying: deque[StepPlan] = deque()
    step = 0
    while arriving or len(finished) < len(generated):
        step += 1
        for _ in range(min(2, len(arriving))):
            assert core.submit(b"test", arriving.popleft(), float(step)) is None
        while len(core.flights) < depth and (plan := core.plan(float(step))) is not None:
            flying.append(plan)
        plan = flying.popleft()
        result = StepResult(EPOCH, plan.step, runner.step(plan), 0, 0, 0)
        runner.slots.check()
        for message in core.commit(result, float(step)).values():
            for request_id, token in zip(message.request_ids, message.tokens, strict=True):
                generated[request_id].append(token)
            finished |= {message.request_ids[item.row] for item in message.finished}
        core.check()
    return generated


@pytest.mark.parametrize(("depth", "page_size"), [(1, 4), (2, 16)])
@pytest.mark.parametrize("name", [*BASIC, "llama-dynamic"])
def test_16_requests_in_few_pages_get_the_ids_of_transformers(
    name: str, depth: int, page_size: int, tmp_path: Path
) -> None:
    seed = 11
    print(f"{name} with seed {seed}")
    draw = random.Random(seed)
    model = random_model(name)
    vocab_size = SHAPES[name].vocab_size
    stem = [draw.randrange(vocab_size) for _ in range(40)]  # that half of them begin with
    prompts = [
        stem * (i % 2) + [draw.randrange(vocab_size) for _ in range(draw.randint(1, 90))] for i in range(16)
    ]
    path = write(model, tmp_path)
    runner = runner_of(path, page_size=page_size, num_pages=320 // page_size)
    slots = runner.slots
    ready = WorkerReady(
        EPOCH, slots.pool_pages, page_size, slots.num_slots, 23, slots.max_model_len, slots.vocab_size,
        runner.model.facts.rotary.length_bound or INT32_MAX,
    )  # fmt: skip
    core = Scheduler(
        Limits(16, 23, 100, 10_000, depth, share_prefixes=True), Fcfs(), ready
    )  # 16 decodes leave room for a chunk of 7
    sampled = Sampling(temperature=0.9, top_k=20, top_p=0.9, seed=5)  # one stranger among the greedy
    requests = [
        Submit(i, column(prompt), [], sampled if i == 3 else GREEDY, NUM_TOKENS, column(), 1, 0, 0.0, "")
        for i, prompt in enumerate(prompts)
    ]
    generated = serve(runner, core, requests, depth)
    print("preemptions", core.stats(0.0).num_preemptions)
    assert core.stats(0.0).num_preemptions > 0
    assert core.stats(0.0).num_prefix_hit_tokens > 0
    alone = generate(runner_of(path), [prompts[3]], NUM_TOKENS, samplings=[sampled])[0].generated
    expected = {i: greedy(model, prompt, NUM_TOKENS) for i, prompt in enumerate(prompts)}
    assert generated == expected | {3: alone}
    assert alone != expected[3]
