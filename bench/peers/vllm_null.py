"""An executor for vLLM that computes nothing: every step is answered at once, or when its time is over.

`--distributed-executor-backend bench.peers.vllm_null.NullExecutor` puts it in the place of vLLM's own, below
its real API server and engine core. Tokens, times and environment: `bench.null_steps`.
"""

from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes

from bench.null_steps import NullSteps, sleep_until

PAGE_SIZE = 16
CACHE_BYTES = 1 << 30  # never taken: they only say how many pages there are


class Step(Future[ModelRunnerOutput]):
    """The result of a step, from the end of its time on."""

    def __init__(self, steps: NullSteps, names: list[str]) -> None:
        super().__init__()
        self._steps, self._names, self._end_ns = steps, names, steps.end_ns()

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Sleeps till then, as one who waits for a device does."""
        del timeout
        if not self.done():
            sleep_until(self._end_ns)
            tokens = [[self._steps.token()]] * len(self._names)
            places = {name: place for place, name in enumerate(self._names)}
            self.set_result(ModelRunnerOutput(self._names, places, sampled_token_ids=tokens))
        return super().result()


class NullExecutor(Executor):
    """One worker that holds no model."""

    def _init_executor(self) -> None:
        self._steps = NullSteps.of_environment()
        self._left: dict[str, int] = {}  # prompt tokens that a request still has to compute
        self._sampled: list[str] = []
        spec = FullAttentionSpec(
            block_size=PAGE_SIZE, num_kv_heads=1, head_size=64, head_size_v=64, dtype=torch.bfloat16
        )
        self._answers: dict[str, Any] = {
            "get_kv_cache_spec": {"model.layers.0.self_attn.attn": spec},
            "get_supported_kv_cache_layouts": ["LBNHC"],
            "determine_available_memory": CACHE_BYTES,
            "compile_or_warm_up_model": CompilationTimes(0.0, 0.0),
            "get_supported_tasks": ("generate",),
        }

    def collective_rpc(self, method: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """The one worker's answer to what is asked when the engine starts or stops."""
        del args, kwargs
        return [self._answers.get(method)]

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Begin a step; its tokens are asked for by `sample_tokens`."""
        for request in scheduler_output.scheduled_new_reqs:
            self._left[request.req_id] = len(request.prompt_token_ids) - request.num_computed_tokens
        self._sampled = []
        for name, count in scheduler_output.num_scheduled_tokens.items():
            self._left[name] -= count
            if self._left[name] <= 0:
                self._sampled.append(name)
        for name in scheduler_output.finished_req_ids:
            self._left.pop(name, None)
        is_empty = not scheduler_output.total_num_scheduled_tokens
        return self._now_or_later(EMPTY_MODEL_RUNNER_OUTPUT if is_empty else None, non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """The tokens of the step that `execute_model` began."""
        del grammar_output
        step = Step(self._steps, self._sampled)
        return step if non_block else step.result()

    def _now_or_later(self, output: ModelRunnerOutput | None, non_block: bool) -> Any:
        if not non_block:
            return output
        future: Future[ModelRunnerOutput | None] = Future()
        future.set_result(output)
        return future

    def check_health(self) -> None:
        """Always well."""

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """A step may be scheduled while another runs, as with vLLM's own executors."""
        return True
