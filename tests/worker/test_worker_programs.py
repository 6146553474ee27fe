"""Replayed decode steps give the bits of steps that are called, and what cannot be replayed is called."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gllm.kernels.native.library import library
from gllm.worker.programs import MOST_ROWS
from gllm.worker.runner import ModelRunner
from tests.numerics.hand_made import Running, generate, runner_of
from tests.numerics.oracle import SHAPES, random_model, write

if library() is None:
    pytest.skip("no C compiler here; then every step runs call by call", allow_module_level=True)

from gllm.kernels import cpu_native
from gllm.kernels.packed_linear import HAS_MATRIX_UNIT, packed
from gllm.kernels.recording import Arena, Recorder, call

DTYPES = [torch.float32, torch.bfloat16] if HAS_MATRIX_UNIT else [torch.float32]
PROMPTS = [[3, 1, 4, 1, 5], list(range(40)), [7], list(range(90, 20, -1))]


def called(runner: ModelRunner) -> ModelRunner:
    runner._programs = None
    return runner


def results(everyone: list[Running]) -> list[list[int]]:
    return [sequence.generated for sequence in everyone]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("shape", ["llama3.1", "llama-dynamic", "qwen2", "qwen3", "glm4"])
def test_a_replayed_step_gives_the_bits_of_a_called_one(
    shape: str, quantized: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over pages that end, rows that come, go and lose their places, and numbers of rows that return."""
    path = write(random_model(shape), tmp_path, dtype)
    seen: list[list[Tensor]] = []
    sample = ModelRunner.sample

    def kept(self: ModelRunner, batch: object, logits: Tensor) -> object:
        seen[-1].append(logits.clone())
        return sample(self, batch, logits)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRunner, "sample", kept)
    made = []
    for prepare in (called, lambda runner: runner):
        seen.append([])
        runner = prepare(runner_of(path, page_size=4, dtype=dtype, quantized=quantized))
        made.append(generate(runner, PROMPTS, 30, admitted_per_step=1, num_preemptions=3, seed=1))
    assert runner._programs is not None
    assert not runner._programs.obstacle
    assert set(runner._programs._replays) >= {1, 2, 3, 4}
    assert results(made[0]) == results(made[1])
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_replayed_step_splits_a_long_context_as_a_called_one(dtype: torch.dtype, tmp_path: Path) -> None:
    """Across 256 tokens, from where on attention weighs a context in parts."""
    config = copy.deepcopy(SHAPES["llama2"])
    config.max_position_embeddings = 1024
    path = write(random_model(config), tmp_path, dtype)
    prompts = [[n % 90 for n in range(240)], [1, 2, 3]]
    replayed = generate(runner_of(path, dtype=dtype), prompts, 30)
    assert results(replayed) == results(generate(called(runner_of(path, dtype=dtype)), prompts, 30))


def test_a_model_whose_experts_torch_computes_is_called_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(random_model("qwen3-moe"), tmp_path)
    runner = runner_of(path)
    with caplog.at_level("INFO", "gllm"):
        replayed = generate(runner, PROMPTS, 6)
    assert runner._programs is not None
    assert runner._programs.obstacle == "softmax"  # of the router
    assert "the model needs softmax" in caplog.text
    assert results(replayed) == results(generate(called(runner_of(path)), PROMPTS, 6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_replayed_step_of_many_rows_gives_the_tokens_of_a_called_one(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """On either side of the numbers of rows for which a product has another way."""
    path = write(random_model("llama3.1"), tmp_path, dtype)
    prompts = [[n, n + 1] for n in range(MOST_ROWS)]
    made = []
    for prepare in (called, lambda runner: runner):
        runner = prepare(runner_of(path, num_slots=MOST_ROWS, dtype=dtype))
        made.append(generate(runner, prompts, 5, admitted_per_step=13))
    assert runner._programs is not None
    assert {rows > 16 for rows in runner._programs._replays} == {False, True}
    assert results(made[0]) == results(made[1])


def test_more_rows_than_programs_are_made_for_are_called(tmp_path: Path) -> None:
    path = write(random_model("llama2"), tmp_path)
    runner = runner_of(path, num_slots=MOST_ROWS + 1)
    generate(runner, [[n] for n in range(MOST_ROWS + 1)], 4)
    assert runner._programs is not None
    assert not runner._programs._replays


def test_what_torch_computes_is_no_replay_and_what_it_looks_at_is() -> None:
    x = torch.ones(4, 8)
    weight, rows = torch.ones(8), torch.tensor([0, 1, 2, 3])

    def norm(given: Tensor) -> Tensor:
        out = torch.empty_like(given)
        call("gllm_rms_norm", given.data_ptr(), None, weight.data_ptr(), 1e-5, 4, 8, out.data_ptr())
        return out

    for compute, name in (
        (lambda: norm(x + 1), "add"),
        (lambda: norm(x.double().float()), "double"),
        (lambda: norm(x[rows]), "__getitem__"),
        (lambda: norm(x.T.contiguous().view(4, 8)), "contiguous"),
        (lambda: norm(x.to(torch.float64).to(torch.float32)), "to"),
        (lambda: norm(x).mul_(2), "mul_"),
    ):
        assert Recorder().record(compute)[1] == name  # type: ignore[arg-type]
    result, replay = Recorder().record(lambda: norm(norm(x.float().view(4, 8)))[:2].flatten(0))
    assert callable(replay)
    before = result.clone()
    x.copy_(torch.arange(32).view(4, 8))
    replay()
    assert not torch.equal(result, before)
    assert torch.equal(result, norm(norm(x))[:2].flatten(0))


def test_every_operator_that_is_recorded_is_replayed_as_itself() -> None:
    """Also those that no family here needs, and vectors where there is a matrix unit."""
    x, heads = torch.randn(3, 64), torch.randn(3, 4, 16)
    weight, norm = torch.randn(96, 64), torch.rand(16)
    bias = torch.randn(96)

    def normed() -> Tensor:
        cpu_native.norm_heads(heads, norm, norm, 1e-5, num_heads=2)
        return heads

    for compute in (
        packed(weight, bias, None, is_gated=True, on_matrix_unit=False),
        cpu_native.silu_mul,
        lambda _: normed(),
        lambda given: cpu_native.rms_norm(given, weight[0], 1e-5),
    ):
        result, replay = Recorder().record(partial(compute, x))
        assert callable(replay)
        x.copy_(torch.randn(3, 64))
        heads.copy_(torch.randn(3, 4, 16))
        kept = heads.clone()
        replay()
        given = result.clone()
        heads.copy_(kept)
        assert torch.equal(given, compute(x))


def test_memory_of_a_recording_is_used_again_and_never_while_a_view_of_it_lives() -> None:
    arena = Arena()
    arena.begin()
    first = arena.take((100,), torch.float32)
    part, address = first[50:], first.data_ptr()
    del first
    second = arena.take((100,), torch.float32)
    assert second.data_ptr() != address
    del part
    assert arena.take((100,), torch.float32).data_ptr() == address
    for _ in range(1000):
        arena.take((1 << 16,), torch.float32)
    assert arena.num_bytes <= 2 << 20


def test_an_earlier_recording_s_tensor_gives_nothing_back_to_a_later_one() -> None:
    arena = Arena()
    arena.begin()
    earlier = arena.take((100,), torch.float32)
    arena.begin()
    now = arena.take((100,), torch.float32)
    assert now.data_ptr() == earlier.data_ptr()
    del earlier
    assert arena.take((100,), torch.float32).data_ptr() != now.data_ptr()
