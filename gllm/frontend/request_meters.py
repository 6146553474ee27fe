"""How long requests take, and how they end: fed by the engine's client, some values a request, one a token.

A request is known from its submission until its reader has closed it. Knows nothing of text or HTTP.
"""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from gllm.meters import Meters
from gllm.protocol.messages import Finished, FinishReason, RejectCode, Submit, Tokens

REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORT: "abort",
    FinishReason.ERROR: "error",
}


@dataclass(slots=True)
class _Output:
    """One output under way. Times are the monotonic clock's."""

    began_at: float
    num_prompt_tokens: int
    first_at: float = 0.0
    last_at: float = 0.0
    num_tokens: int = 0
    is_counted: bool = False  # among those that ended


class RequestMeters(Meters):
    """The meters of one frontend."""

    def __init__(self) -> None:
        super().__init__()
        self.on_spent: Callable[[str, int], None] = lambda _tenant, _num_tokens: None
        self._outputs: dict[tuple[int, int], _Output] = {}
        self._first = self.distribution("time_to_first_token_seconds")
        self._between = self.distribution("inter_token_latency_seconds")

    def submitted(self, request: Submit, tenant: str) -> None:
        """A request goes to the scheduler. tenant: who is charged for it, if anybody."""
        now = time.monotonic()
        for output in range(request.n):
            self._outputs[request.request_id, output] = _Output(now, len(request.prompt))
        self._add("request_params_n", request.n)
        self._add("request_params_max_tokens", request.max_tokens)
        self._spend(tenant, "prompt", len(request.prompt))

    def delivered(self, message: Tokens, now: float) -> None:
        """One commit: the only call whose cost grows with tokens."""
        find = self._outputs.get
        bounds, counts, total = self._between.bounds, self._between.counts, 0.0
        for key in zip(message.request_ids, message.outputs or [0] * len(message.tokens), strict=True):
            output = find(key)
            if output is None:  # cancelled
                continue
            if output.num_tokens:
                gap = now - output.last_at
                counts[bisect_left(bounds, gap)] += 1
                total += gap
            else:
                output.first_at = now
                self._first.add(now - output.began_at)
            output.num_tokens += 1
            output.last_at = now
        self._between.total += total
        for item in message.finished:
            key = message.request_ids[item.row], message.outputs[item.row] if message.outputs else 0
            output = find(key)
            if output is not None:
                self._phases(item)
                self._ended(output, REASONS[FinishReason(item.reason)])

    def closed(self, request: Submit, tenant: str, error: Exception | None, is_enough: bool) -> None:
        """Its reader wants no more of it. is_enough: since a stop string ended it.

        error: why it could not go on; its `code`, if it has one, says why the scheduler refused it.
        """
        code = getattr(error, "code", None)
        outputs = [self._outputs.pop((request.request_id, number)) for number in range(request.n)]
        if isinstance(code, RejectCode):
            self.count("admission_rejections", code.name.lower())
            return
        for output in outputs:
            if not output.is_counted:
                self._ended(output, "stop" if is_enough else "abort" if error is None else "error")
        lengths = [output.num_tokens for output in outputs]
        self._add("request_max_num_generation_tokens", max(lengths))
        self._spend(tenant, "generation", sum(lengths))

    def _ended(self, output: _Output, reason: str) -> None:
        """Its last token has come."""
        output.is_counted = True
        self.count("request_success", reason)
        if reason not in ("stop", "length"):
            return
        self._add("e2e_request_latency_seconds", output.last_at - output.began_at)
        self._add("request_prompt_tokens", output.num_prompt_tokens)
        self._add("request_generation_tokens", output.num_tokens)
        if output.num_tokens > 1:
            gap = (output.last_at - output.first_at) / (output.num_tokens - 1)
            self._add("request_time_per_output_token_seconds", gap)

    def _phases(self, item: Finished) -> None:
        """What the scheduler says of an output's life."""
        self._add("request_queue_time_seconds", item.queue_s)
        self._add("request_prefill_time_seconds", item.prefill_s)
        self._add("request_decode_time_seconds", item.decode_s)
        self._add("request_inference_time_seconds", item.prefill_s + item.decode_s)
        self._add("request_num_preemptions", item.num_preemptions)

    def _spend(self, tenant: str, kind: str, num_tokens: int) -> None:
        if tenant:
            self.count("tenant_tokens", tenant, kind, by=num_tokens)
            self.on_spent(tenant, num_tokens)

    def _add(self, name: str, value: float) -> None:
        self.distribution(name).add(value)
