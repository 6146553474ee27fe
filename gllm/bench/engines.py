"""The offline engines that are compared: gLLM, vLLM, and transformers' own loop (`hf`).

Each draws at temperature 1, ignores the end of text, and counts what it really generated. A library
is imported only when its engine is chosen. Knows nothing of data sets and clocks.
"""

import functools
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from gllm.bench.breakdown import FORWARD, OUTPUT, SAMPLE, SCHEDULE, Timed, of_trace
from gllm.bench.datasets import Sample
from gllm.bench.errors import BenchError
from gllm.config import DeploymentConfig
from gllm.timeline import Trace

INSTALL = {
    "vllm": "pip install vllm, in an environment of its own",
    "transformers": "pip install transformers",
}


class Engine(Protocol):
    def generate(self, samples: Sequence[Sample], show_progress: bool) -> tuple[int, int]:
        """Answer all samples; returns the prompt tokens and the output tokens."""

    def timed(self) -> Iterable[Timed]:
        """What it did when, for the breakdown; complete once the engine has ended, empty if unknown."""


@contextmanager
def engine(name: str, config: DeploymentConfig, max_batch_size: int | None) -> Iterator[Engine]:
    """The engine `name` with the configuration's model, ready; raises `BenchError` where it is missing."""
    with ENGINES[name](config, max_batch_size) as running:
        yield running


class _Listed:
    """An engine with vLLM's call form, which is ours, too. params: makes sampling parameters."""

    def __init__(
        self, llm: Any, params: Callable[..., Any], timed: Callable[[], Iterable[Timed]] = tuple
    ) -> None:
        self._llm = llm
        self._params = params
        self.timed = timed

    def generate(self, samples: Sequence[Sample], show_progress: bool) -> tuple[int, int]:
        prompts = [
            sample.prompt if isinstance(sample.prompt, str) else {"prompt_token_ids": sample.prompt.tolist()}
            for sample in samples
        ]
        params = [
            self._params(temperature=1.0, top_p=1.0, ignore_eos=True, max_tokens=sample.num_output_tokens)
            for sample in samples
        ]
        results = self._llm.generate(prompts, params, use_tqdm=show_progress)
        num_prompt = sum(len(result.prompt_token_ids) for result in results)
        return num_prompt, sum(len(one.token_ids) for result in results for one in result.outputs)


@contextmanager
def _gllm(config: DeploymentConfig, _max_batch_size: int | None) -> Iterator[Engine]:
    from gllm.frontend.params import SamplingParams
    from gllm.llm import LLM

    with tempfile.TemporaryDirectory(prefix="gllm-bench-") as folder:
        path = Path(config.observability.trace_file or Path(folder, "trace.json"))
        observability = config.observability.model_copy(update={"trace_file": str(path)})
        steps: list[Timed] = []
        try:
            with LLM(config=config.model_copy(update={"observability": observability})) as llm:
                yield _Listed(llm, SamplingParams, lambda: steps)
        finally:
            steps += of_trace(Trace.read(path)) if path.exists() else ()


@contextmanager
def _vllm(config: DeploymentConfig, _max_batch_size: int | None) -> Iterator[Engine]:
    vllm = _library("vllm")
    options: dict[str, Any] = {
        "max_model_len": config.model.max_len if isinstance(config.model.max_len, int) else None,
        "dtype": config.model.dtype,
        "gpu_memory_utilization": config.worker.gpu_memory_utilization,
        "max_num_seqs": config.scheduler.max_num_seqs,
        "max_num_batched_tokens": config.scheduler.max_num_batched_tokens,
        "seed": config.model.seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    in_process = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"
    if in_process:  # one step after the other, which can be timed from outside
        given |= {"distributed_executor_backend": "uni", "async_scheduling": False}
    llm = vllm.LLM(model=str(config.model.path), **given)
    stopwatch = Stopwatch()
    if in_process:
        engine, core = llm.llm_engine, llm.llm_engine.engine_core.engine_core
        stopwatch.time(engine, "add_request", SCHEDULE)
        stopwatch.time(core.scheduler, "schedule", SCHEDULE)
        stopwatch.time(core.model_executor, "execute_model", FORWARD)
        stopwatch.time(core.model_executor, "sample_tokens", SAMPLE)
        stopwatch.time(core.scheduler, "update_from_output", OUTPUT)
        stopwatch.time(engine.output_processor, "process_outputs", OUTPUT)
    yield _Listed(llm, vllm.SamplingParams, lambda: stopwatch.steps)


class Stopwatch:
    """Notes when methods of another library's objects run; such an engine does one thing at a time."""

    def __init__(self) -> None:
        self.steps: list[Timed] = []

    def time(self, owner: Any, method: str, part: str) -> None:
        """Count the calls of `owner.method` for `part`."""
        call = getattr(owner, method)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic_ns()
            try:
                return call(*args, **kwargs)
            finally:
                self.steps.append((part, began, time.monotonic_ns()))

        setattr(owner, method, timed)


class _HuggingFace:
    """Static batches, padded to their longest prompt and run to their longest answer, as in the first gLLM.

    Only the tokens that were asked for count.
    """

    def __init__(self, config: DeploymentConfig, max_batch_size: int) -> None:
        transformers = _library("transformers")
        self._torch: Any = importlib.import_module("torch")
        path = str(config.model.path)
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        self._model = model.to(self._device).eval()
        self._max_batch_size = max_batch_size
        self._stopwatch = Stopwatch()
        self._stopwatch.time(self._model, "forward", FORWARD)

    def timed(self) -> Iterable[Timed]:
        return self._stopwatch.steps

    def generate(self, samples: Sequence[Sample], show_progress: bool) -> tuple[int, int]:
        num_prompt = 0
        with tqdm(total=len(samples), disable=not show_progress, dynamic_ncols=True) as bar:
            for start in range(0, len(samples), self._max_batch_size):
                batch = samples[start : start + self._max_batch_size]
                num_prompt += self._run(batch)
                bar.update(len(batch))
        return num_prompt, sum(sample.num_output_tokens for sample in samples)

    def _run(self, batch: Sequence[Sample]) -> int:
        """Answer one batch; returns its prompt tokens."""
        torch = self._torch
        began = time.monotonic_ns()
        prompts: list[list[int]] = [
            self._tokenizer(sample.prompt).input_ids
            if isinstance(sample.prompt, str)
            else sample.prompt.tolist()
            for sample in batch
        ]
        width = max(map(len, prompts))
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):  # padded on the left: what is generated stands on the right
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        num_output = max(sample.num_output_tokens for sample in batch)
        steps = self._stopwatch.steps
        steps.append((SCHEDULE, began, since := time.monotonic_ns()))
        num_before = len(steps)
        found = self._model.generate(
            input_ids=tokens.to(self._device), attention_mask=mask.to(self._device), do_sample=True,
            temperature=1.0, top_p=1.0, top_k=0, min_new_tokens=num_output, max_new_tokens=num_output,
            pad_token_id=0,
        )  # fmt: skip
        # All of `generate` but the model is sampling, and the care of its tensors.
        for _, forward_began, forward_ended in steps[num_before:]:
            steps.append((SAMPLE, since, forward_began))
            since = forward_ended
        steps.append((SAMPLE, since, decoding := time.monotonic_ns()))
        self._tokenizer.batch_decode(found[:, width:], skip_special_tokens=True)
        steps.append((OUTPUT, decoding, time.monotonic_ns()))
        return sum(map(len, prompts))


@contextmanager
def _hf(config: DeploymentConfig, max_batch_size: int | None) -> Iterator[Engine]:
    if max_batch_size is None or max_batch_size < 1:
        raise BenchError("--backend hf runs batches of a fixed size: set it with --hf-max-batch-size")
    yield _HuggingFace(config, max_batch_size)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BenchError(f"this backend needs the package {name} ({error}): {INSTALL[name]}") from error


ENGINES = {"gllm": _gllm, "vllm": _vllm, "hf": _hf}
