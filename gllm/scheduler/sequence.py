"""The scheduler's account of one output of one request.

A sequence is its tokens: from them alone it can be computed again, after a preemption or on
another worker. Two clocks run over it: a plan moves `num_planned_tokens`, a result appends to
`tokens` and moves `num_committed_tokens`.
"""

from array import array
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from gllm.protocol.messages import Finished, FinishReason, PassedOver, Sampling
from gllm.scheduler.prefix import PrefixKeys

NO_SLOT = -1


@dataclass(eq=False, slots=True)
class Sequence:
    """One output. Compared by identity: it is an account, not a value."""

    frontend: bytes  # which frontend asked
    request_id: int
    output: int  # which of the request's outputs
    arrival: int  # a count of all sequences submitted
    num_prompt_tokens: int
    max_len: int  # prompt and output tokens at which it ends by length
    sampling: Sampling
    stop_token_ids: frozenset[int]
    priority: int
    arrived_at: float  # seconds, the caller's clock
    prefix_keys: PrefixKeys
    tokens: "array[int]"  # the prompt, then every committed token
    is_constrained: bool = False  # each of its tokens needs a mask, which its frontend sends
    mask: bytes = b""  # of the next token; empty until it comes, then kept until the token is committed
    num_planned_tokens: int = 0  # positions whose keys and values some plan computes
    num_committed_tokens: int = 0  # positions whose keys and values are known to be computed
    num_pending_tokens: int = 0  # tokens that plans in flight will sample
    slot: int = NO_SLOT
    pages: list[int] = field(default_factory=list)
    num_named_pages: int = 0  # leading pages that the prefix cache has seen
    last_turn: int = 0  # when it last had a decode row, where these are given in turn
    num_preemptions: int = 0
    num_cached_tokens: int = 0  # found in the prefix cache when it first began
    began_at: float | None = None
    first_token_at: float | None = None
    passed_over: list[int] = field(default_factory=lambda: [0] * len(PassedOver))  # while first in the queue
    name: str = ""  # of the request, for people

    @property
    def num_tokens_left(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 in decode, more in a prompt."""
        return len(self.tokens) + self.num_pending_tokens - self.num_planned_tokens

    @property
    def awaits_mask(self) -> bool:
        """Whether its next token cannot be sampled yet: which ones its grammar allows is not known."""
        return self.is_constrained and (not self.mask or self.num_pending_tokens > 0)

    def leave_slot(self) -> None:
        """Forget everything that a worker holds for this sequence."""
        self.slot = NO_SLOT
        self.pages = []
        self.num_named_pages = 0
        self.num_planned_tokens = 0
        self.num_committed_tokens = 0
        self.num_pending_tokens = 0

    def finished(self, row: int, reason: FinishReason, now: float) -> Finished:
        """How its life went that ends now, with token `row` of a message."""
        began, first = self.began_at, self.first_token_at
        assert began is not None
        assert first is not None
        return Finished(
            row=row,
            reason=reason,
            num_preemptions=self.num_preemptions,
            queue_s=max(began - self.arrived_at, 0.0),
            prefill_s=max(first - began, 0.0),
            decode_s=max(now - first, 0.0),
        )

    def check(self) -> None:
        """Raise unless the clocks are in order."""
        assert 0 <= self.num_committed_tokens <= self.num_planned_tokens
        assert self.num_planned_tokens <= len(self.tokens) + self.num_pending_tokens
        assert len(self.tokens) + self.num_pending_tokens <= self.max_len
        assert self.is_constrained or not self.mask
        if self.is_constrained and self.num_pending_tokens:
            assert self.num_pending_tokens == 1  # the next mask depends on that token
            assert self.mask
        if self.slot == NO_SLOT:
            assert not self.pages
            assert not self.num_planned_tokens
            assert not self.num_pending_tokens


def known_tokens(prompt: Tokens[int], generated: Tokens[int]) -> "array[int]":
    """The tokens of a sequence that begins with `prompt` and already has `generated`."""
    tokens = array("i", prompt)
    tokens.extend(generated)
    return tokens
