"""Weights of 8 bits: how wrong they are, what stays, what they take, and where they are refused."""

from pathlib import Path

import pytest
import tiny_checkpoint
import torch
from test_worker_platform import GpuInName
from tokenizers import Tokenizer

from demo.corpus import held_out_questions, render
from demo.evaluate import MODEL_FOLDER, Answer, is_right
from demo.tokenizer import TURN_END_ID
from gllm.checkpoint import CheckpointError
from gllm.kernels import dispatch
from gllm.kernels.dispatch import operators
from gllm.kernels.native.library import library
from gllm.worker import quantization
from gllm.worker.demand import plan_for
from gllm.worker.look_through import look_through
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import PlatformError
from gllm.worker.quantization import quantize_rows
from gllm.worker.start import make_runner
from tests.numerics.hand_made import Running, generate, runner_of
from tests.numerics.oracle import next_logits, random_model, write

in_c = pytest.mark.skipif(
    library() is None, reason="torch's operators have no products with int8 weights: see the refusals"
)
SOME_SHAPES = ["llama2", "llama3.1", "qwen3", "glm4"]
PROMPTS = [[3, 1, 4, 1, 5], list(range(40)), [9] * 70]
HALF = 0.5 + 2**-15  # a half and what float32 adds to 127 steps


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    quantize_rows(weight, values, scale)
    return values, scale


def relative_error(exact: Running, other: Running) -> float:
    assert exact.first_logits is not None
    assert other.first_logits is not None
    error = ((other.first_logits - exact.first_logits).norm() / exact.first_logits.norm()).item()
    print(error)
    return error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (130, 64)])
def test_an_element_is_wrong_by_half_its_row_s_scale_at_most(
    shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "BLOCK_ELEMENTS", 1000)  # rows are taken several at once
    weight = (normal(*shape, seed=0) * normal(shape[0], 1, seed=1).exp()).to(dtype)
    given = weight.clone()
    values, scale = quantized(weight)
    assert torch.equal(weight, given)
    torch.testing.assert_close(scale, weight.float().abs().amax(1) / 127, atol=0.0, rtol=0.0)
    error = (weight.double() - values.double() * scale.double()[:, None]).abs()
    assert (error <= HALF * scale.double()[:, None]).all()
    assert (values.abs().amax(1) == 127).all()


def test_zeros_stay_zeros_and_what_is_no_number_tells() -> None:
    weight = torch.ones(5, 3)
    weight[0] = 0.0
    weight[1, 1] = float("nan")
    weight[2, 0] = float("-inf")
    weight[3] = 1e-45  # too small for a scale of its own
    values, scale = quantized(weight)
    made = values * scale[:, None]
    assert (made[0] == 0).all()
    assert made[1].isnan().all()
    assert not made[2].isfinite().any()
    assert (made[3].abs() <= 1e-45).all()
    torch.testing.assert_close(made[4], weight[4])


@in_c
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_product_is_wrong_by_half_a_scale_for_each_of_its_inputs_at_most(rows: int) -> None:
    ops = operators("cpu", torch.float32)
    weight, x = normal(100, 300, seed=0), normal(rows, 300, seed=1)
    values, scale = quantized(weight)
    got = ops.linear(values, None, scale)(x).double()
    error = (got - x.double() @ weight.double().T).abs()
    most = HALF * x.double().abs().sum(1)[:, None] * scale.double()
    assert (error <= most + 1e-4).all()  # float32 arithmetic is far inside the second term
    assert error.max() > 1e-3  # and the weights were rounded indeed


@in_c
@pytest.mark.parametrize("shape", SOME_SHAPES)
def test_logits_are_those_that_transformers_computes_with_the_rounded_weights(
    shape: str, tmp_path: Path
) -> None:
    model = random_model(shape)
    path = write(model, tmp_path, torch.bfloat16)
    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.ndim == 2:
            values, scale = quantized(parameter.data)
            parameter.data = values * scale[:, None]
    for sequence in generate(runner_of(path, quantized=True), PROMPTS, 1):
        expected = next_logits(model, sequence.tokens[: sequence.num_prompt_tokens])
        torch.testing.assert_close(sequence.first_logits, expected, atol=1e-4, rtol=0)


@in_c
@pytest.mark.parametrize("shape", SOME_SHAPES)
def test_logits_are_near_those_of_the_whole_weights(shape: str, tmp_path: Path) -> None:
    path = write(random_model(shape, std=0.05), tmp_path, torch.bfloat16)
    exact, short = (generate(runner_of(path, quantized=q), PROMPTS, 1) for q in (False, True))
    for one, other in zip(exact, short, strict=True):
        assert 0 < relative_error(one, other) < 0.05


@in_c
def test_a_batch_with_chunks_and_preemptions_gives_the_bits_of_each_prompt_alone(tmp_path: Path) -> None:
    path = write(random_model("llama3"), tmp_path, torch.bfloat16)
    together = generate(
        runner_of(path, quantized=True), PROMPTS, 8, chunk=7, admitted_per_step=2, num_preemptions=4
    )
    for prompt, sequence in zip(PROMPTS, together, strict=True):
        (alone,) = generate(runner_of(path, quantized=True), [prompt], 8)
        assert alone.generated == sequence.generated
        assert alone.first_logits is not None
        assert sequence.first_logits is not None
        assert torch.equal(alone.first_logits, sequence.first_logits)


@in_c
@pytest.mark.parametrize("shape", ["llama2", "qwen2"])  # with an output matrix, and without
def test_the_layers_matrices_take_a_byte_an_element_and_a_scale_a_row_all_else_stays(
    shape: str, tmp_path: Path
) -> None:
    path = write(random_model(shape), tmp_path, torch.bfloat16)
    options = WorkerOptions(path, quantization="int8", num_pages=64)
    model = look_through(options)
    shapes, dtypes = model.parameters()
    expected = 0
    for name, size in model.facts.parameter_shapes().items():
        kind = name.rpartition("layers.")[2]
        if len(size) == 2 and kind not in ("embed.weight", "lm_head.weight"):
            expected += size[0] * size[1] + 4 * size[0]
            assert dtypes[name] == torch.int8
        else:
            item = 2 if name == "lm_head.weight" else 4
            expected += item * torch.Size(size).numel()
            assert dtypes[name].itemsize == item
    if model.facts.tied:  # packed a second time
        expected += 4 * torch.Size(shapes["embed.weight"]).numel()
    assert plan_for(options, model).demand.weight_bytes == expected
    whole = WorkerOptions(path, num_pages=64)
    assert expected < plan_for(whole, look_through(whole)).demand.weight_bytes


@in_c
def test_random_weights_of_8_bits_give_numbers(tmp_path: Path) -> None:
    path = write(random_model("llama3"), tmp_path, torch.bfloat16)
    options = WorkerOptions(path, load_format="dummy", quantization="int8", num_pages=64, num_threads=1)
    (sequence,) = generate(make_runner(options), [[1, 2, 3]], 2)
    assert sequence.first_logits is not None
    assert sequence.first_logits.isfinite().all()
    assert sequence.first_logits.std() > 0.01


@in_c
def test_the_demo_model_still_answers_what_it_never_saw() -> None:
    skills = ("two-digit sums", "differences up to 99", "follow-up sums", "word problems", "opposites")
    questions = [question for skill in skills for question in held_out_questions(skill, number=8, seed=3)]
    tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    prompts = [
        tokenizer.encode(render(messages, add_generation_prompt=True)).ids for messages, _ in questions
    ]
    exact, short = (
        generate(runner_of(MODEL_FOLDER, quantized=q, num_pages=2048, num_slots=len(prompts)), prompts, n)
        for q, n in ((False, 1), (True, 40))
    )
    wrong = []
    for whole, sequence, (_, turn) in zip(exact, short, questions, strict=True):
        assert relative_error(whole, sequence) < 0.015
        ends = TURN_END_ID in sequence.generated
        ids = sequence.generated[: sequence.generated.index(TURN_END_ID)] if ends else sequence.generated
        answer = Answer(tokenizer.decode(ids), ends, len(ids))
        if not is_right(answer, turn.expect):
            wrong.append((turn.user, answer.text, turn.expect))
    assert not wrong


def refused(path: Path, **options: str) -> WorkerOptions:
    return WorkerOptions(path, quantization="int8", **options)


def test_experts_are_refused(tmp_path: Path) -> None:
    path = write(random_model("qwen3-moe"), tmp_path)
    with pytest.raises(CheckpointError, match=r"quantization is int8, but the model has experts, .* to none"):
        look_through(refused(path))


def test_another_dtype_a_gpu_and_the_lack_of_a_compiler_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_checkpoint.write(tmp_path)
    says = "has no products with int8 weights here: they take device cpu, dtype float32 "
    with pytest.raises(PlatformError, match=f"quantization is int8, but cpu in float16 {says}"):
        look_through(refused(path, dtype="float16"))
    with pytest.raises(PlatformError, match=f"quantization is int8, but cuda in bfloat16 {says}"):
        look_through(refused(path), GpuInName())
    monkeypatch.setattr(dispatch, "library", lambda: None)
    with pytest.raises(PlatformError, match=f"quantization is int8, but cpu in float32 {says}"):
        look_through(refused(path))


def test_a_checkpoint_that_is_quantised_already_is_refused_as_ever(tmp_path: Path) -> None:
    path = tiny_checkpoint.write(tmp_path, config={"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(CheckpointError, match="the checkpoint is quantised"):
        look_through(refused(path))
