"""What requests ask of their logits, through the real core and the real runner with too few pages.

The truth is numpy on transformers' logits of each finished text: every token must be the one that the
documented order of filters leaves on top, whatever was preempted, chunked or shared on the way.
"""

import random
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hand_made import runner_of
from oracle import SHAPES, forget, random_model, write
from transformers import PreTrainedModel

from gllm.protocol.logits import Logprobs, Shaping
from gllm.protocol.messages import Sampling, StepPlan, StepResult, Submit, WorkerReady
from gllm.protocol.wire import INT32_MAX, column, floats
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs
from gllm.worker.runner import ModelRunner

NUM_TOKENS = 30
EPOCH = 1
CLOSE = 2e-3  # of two logits that may change places by rounding


def random_shaping(draw: random.Random, vocab_size: int) -> Shaping:
    """Some of all that can be asked for; few tokens, so that words come up and penalties bite."""

    def ids(most: int) -> list[int]:
        return draw.sample(range(vocab_size), draw.randint(1, most))

    biased = ids(20) if draw.random() < 0.5 else []
    allowed = draw.sample(range(vocab_size), 12) if draw.random() < 0.5 else []
    among = allowed or range(vocab_size)
    words = [[draw.choice(among) for _ in range(draw.randint(1, 3))] for _ in range(30)]
    penalized = draw.random() < 0.7
    return Shaping(
        min_p=0.0,
        repetition_penalty=draw.choice([0.8, 1.3, 2.0]) if penalized else 1.0,
        frequency_penalty=draw.uniform(-0.5, 2.0) if penalized else 0.0,
        presence_penalty=draw.uniform(-0.5, 2.0) if penalized else 0.0,
        bias_token_ids=column(biased),
        biases=floats([draw.uniform(-8, 8) for _ in biased]),
        allowed_token_ids=column(allowed),
        bad_words=[column(word) for word in words if len(word) > 1] if draw.random() < 0.6 else [],
        min_tokens=draw.randint(0, NUM_TOKENS),
        banned_ends=column(draw.sample(range(vocab_size), 4)),
    )


def shaped(logits: npt.NDArray[np.float64], shaping: Shaping, prompt: list[int], output: list[int]) -> None:
    """The documented order, token by token."""
    for token in range(len(logits)):
        if shaping.allowed_token_ids and token not in shaping.allowed_token_ids:
            logits[token] = -np.inf
        for word in shaping.bad_words:
            *before, last = word
            if last == token and output[len(output) - len(before) :] == before and len(output) >= len(before):
                logits[token] = -np.inf
        if len(output) < shaping.min_tokens and token in shaping.banned_ends:
            logits[token] = -np.inf
        if token in shaping.bias_token_ids:
            logits[token] += shaping.biases[shaping.bias_token_ids.index(token)]
        if token in prompt or token in output:
            factor = shaping.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        logits[token] -= shaping.frequency_penalty * output.count(token)
        logits[token] -= shaping.presence_penalty * (token in output)


@torch.no_grad()
def all_logits(model: PreTrainedModel, tokens: list[int]) -> npt.NDArray[np.float64]:
    """[tokens, vocab], behind each of `tokens`."""
    forget(model)
    return model(torch.tensor([tokens])).logits[0].double().numpy()


class Served:
    """Everything that came of some requests with two plans in flight."""

    def __init__(self, runner: ModelRunner, requests: list[Submit], budget: int = 23) -> None:
        slots = runner.slots
        ready = WorkerReady(
            EPOCH, slots.pool_pages, slots.page_size, slots.num_slots, budget, slots.max_model_len,
            slots.vocab_size, INT32_MAX,
        )  # fmt: skip
        self.core = Scheduler(Limits(16, budget, 100, 10_000, 2, share_prefixes=True), Fcfs(), ready)
        self.tokens: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.logprobs: dict[tuple[int, int], list[tuple[int, list[int], list[float]]]] = defaultdict(list)
        self.prompt_logprobs: dict[int, dict[int, tuple[int, list[int], list[float]]]] = defaultdict(dict)
        arriving, flying, now = deque(requests), deque[StepPlan](), 0.0
        while arriving or self.core.running or self.core.waiting or flying:
            now += 1
            for _ in range(min(2, len(arriving))):
                assert self.core.submit(b"test", arriving.popleft(), now) is None
            while len(self.core.flights) < 2 and (plan := self.core.plan(now)) is not None:
                flying.append(plan)
            plan = flying.popleft()
            sampled = runner.launch(plan).take()
            result = StepResult(EPOCH, plan.step, column(sampled.tokens.tolist()), 0, 0, 0)
            if sampled.logprobs is not None:
                result.logprobs = sampled.logprobs.of_tokens()
            if sampled.prompt_logprobs is not None:
                result.prompt_logprobs = sampled.prompt_logprobs.of_prompts()
            runner.slots.check()
            for message in self.core.commit(result, now).values():
                keys = list(zip(message.request_ids, message.outputs, strict=True))
                for key, token in zip(keys, message.tokens, strict=True):
                    self.tokens[key].append(token)
                for row, position in positions(message.logprobs):
                    self.logprobs[keys[row]].append(position)
                for part in message.prompt_logprobs:
                    self.prompt_logprobs[part.owner] |= dict(positions(part.logprobs))


def positions(logprobs: Logprobs | None) -> list[tuple[int, tuple[int, list[int], list[float]]]]:
    """Of each place: rank, ids, values."""
    found, start = [], 0
    if logprobs is not None:
        for place, count, rank in zip(logprobs.places, logprobs.counts, logprobs.ranks, strict=True):
            end = start + count
            found.append(
                (place, (rank, logprobs.token_ids[start:end].tolist(), logprobs.values[start:end].tolist()))
            )
            start = end
    return found


def agrees(
    told: tuple[int, list[int], list[float]], logits: npt.NDArray[np.float64], token: int, num: int
) -> None:
    """A rank and log-probabilities of `token` and the likeliest are those of `logits`."""
    rank, ids, values = told
    exact = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert ids[0] == token
    assert len(ids) == len(values) == 1 + num
    np.testing.assert_allclose(values, exact[ids], atol=CLOSE)
    np.testing.assert_allclose(values[1:], np.sort(exact)[::-1][:num], atol=CLOSE)
    assert (exact > exact[token] + CLOSE).sum() < rank <= (exact >= exact[token] - CLOSE).sum()


@pytest.mark.parametrize("seed", range(3))
def test_every_token_is_the_one_that_the_documented_order_leaves_on_top(seed: int, tmp_path: Path) -> None:
    print("seed", seed)
    name = ["llama3", "qwen2", "llama2"][seed]
    draw, model = random.Random(seed), random_model(name)
    vocab_size = SHAPES[name].vocab_size
    stem = [draw.randrange(vocab_size) for _ in range(40)]
    prompts = [
        stem * (i % 2) + [draw.randrange(vocab_size) for _ in range(draw.randint(2, 60))] for i in range(16)
    ]
    wishes = [None if i % 5 == 4 else random_shaping(draw, vocab_size) for i in range(16)]
    requests = [
        Submit(
            request_id=i,
            prompt=column(prompt),
            generated=[],
            # Some greedy, some sampled; some ask for log-probabilities, of which another number each.
            sampling=Sampling(0.8 * (i % 3 == 2), 0, 1.0, i, [0, 1, 4][i % 3], [0, 0, 0, 3][i % 4], wish),
            max_tokens=NUM_TOKENS,
            stop_token_ids=column(),
            n=1 + i % 2,
            priority=0,
            timeout_s=0.0,
            cache_salt="",
        )
        for i, (prompt, wish) in enumerate(zip(prompts, wishes, strict=True))
    ]
    served = Served(runner_of(write(model, tmp_path), page_size=4, num_pages=90), requests)
    stats = served.core.stats(0.0)
    assert stats.num_preemptions > 0
    assert stats.num_prefix_hit_tokens > 0
    num_changed = 0
    for (i, output), generated in served.tokens.items():
        prompt, sampling = prompts[i], requests[i].sampling
        assert len(generated) == NUM_TOKENS
        logits = all_logits(model, prompt + generated)
        for number, token in enumerate(generated):
            own = logits[len(prompt) + number - 1]
            if sampling.num_logprobs:
                agrees(served.logprobs[i, output][number], own, token, sampling.num_logprobs - 1)
            wanted = own.copy()
            if sampling.shaping is not None:
                shaped(wanted, sampling.shaping, prompt, generated[:number])
            assert wanted[token] > -np.inf
            if not sampling.temperature:
                assert wanted[token] > wanted.max() - CLOSE
                num_changed += token != own.argmax()
        if sampling.num_prompt_logprobs and not output:
            told = served.prompt_logprobs[i]
            assert told.keys() == set(range(1, len(prompt)))
            for place, position in told.items():
                agrees(position, logits[place - 1], prompt[place], sampling.num_prompt_logprobs - 1)
    assert len(served.logprobs) == sum(r.n for r in requests if r.sampling.num_logprobs)
    assert len(served.prompt_logprobs) == 4
    assert num_changed > 100, "what was asked for changes next to nothing"


def test_a_seed_gives_the_same_tokens_alone_and_under_load(tmp_path: Path) -> None:
    draw, model = random.Random(5), random_model("llama3")
    path = write(model, tmp_path)

    def request(number: int, n: int, prompt: list[int]) -> Submit:
        wish = random_shaping(draw, 257) if number % 2 else replace_min_p(random_shaping(draw, 257))
        sampling = Sampling(1.0, 0, 0.9, 77 + number, 0, 0, wish)
        return Submit(number, column(prompt), [], sampling, NUM_TOKENS, column(), n, 0, 0.0, "")

    requests = [request(i, 4, [draw.randrange(257) for _ in range(30)]) for i in range(6)]
    together = Served(runner_of(path, page_size=4, num_pages=90), requests)
    assert together.core.stats(0.0).num_preemptions > 0
    for one in requests:
        alone = Served(runner_of(path, page_size=4), [one], budget=200)
        assert alone.core.stats(0.0).num_preemptions == 0
        # All but each one's last page are computed once.
        assert alone.core.stats(0.0).num_prefix_hit_tokens == 3 * 28
        texts = [alone.tokens[one.request_id, output] for output in range(4)]
        assert texts == [together.tokens[one.request_id, output] for output in range(4)]
        assert len({tuple(text) for text in texts}) == 4


def replace_min_p(shaping: Shaping) -> Shaping:
    shaping.min_p = 0.01
    return shaping
