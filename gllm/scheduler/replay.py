"""The real core, fed with a recording: it must make the same plans, byte for byte.

Knows events and the core; prints nothing and simulates nothing.
"""

from collections.abc import Callable, Iterator, Sequence

from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import MAX_PAGES, PassedOver, Rejected, StepPlan, Tokens
from gllm.protocol.wire import ProtocolError
from gllm.scheduler.recording import (
    Begin,
    CacheReset,
    Cancelled,
    Committed,
    End,
    Event,
    Expired,
    FrontendLost,
    Masked,
    Part,
    Planned,
    Planning,
    RecordingError,
    Submitted,
    WorkerCame,
    WorkerLost,
)
from gllm.scheduler.snapshot import restore, snapshot

Answer = Rejected | dict[bytes, Tokens] | list[tuple[bytes, Rejected]] | None
Watch = Callable[[Event, Answer], None]


class Differs(Exception):
    """The replayed core did something else than the recorded one; the message says what.

    `recorded` and `replayed` are the two plans of `step`; None where there was none.
    """

    def __init__(
        self, sentence: str, step: int, recorded: StepPlan | None = None, replayed: StepPlan | None = None
    ) -> None:
        super().__init__(sentence)
        self.step = step
        self.recorded = recorded
        self.replayed = replayed


class Replay:
    """One core on its way through a recording: its parts, oldest first."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Raises `RecordingError` where the first part begins with an impossible state."""
        begin = parts[0].begin
        try:
            self.core = restore(begin.state)
        except ProtocolError as error:
            raise RecordingError(f"{parts[0].path}: {error}") from error
        self.parts = parts
        self.now = begin.now
        self.num_events = 0
        self.num_plans = 0
        self.plan: StepPlan | None = None  # the last one
        self.lack: PassedOver | None = None  # why the first in the queue did not get into it
        self.error: Exception | None = None  # with which the core ended, here as when it was recorded
        self.end: End | None = None  # the recording's last word
        self._is_unseen = False  # `plan` has not been compared yet

    def run(self, *, until: int | None = None, watch: Watch | None = None) -> None:
        """Go through all parts, or until the plan of step `until` has been made.

        Raises `Differs`, or `RecordingError` for what cannot be read. `watch` sees every event with
        the core's answer. If the recorded core ended with an exception, so must this one: see `error`.
        """
        events = _events(self.parts)
        for event in events:
            try:
                answer = self.take(event)
            except (Differs, RecordingError):
                raise
            except Exception as error:
                if not _ends_badly(events):
                    name = type(error).__name__
                    sentence = f"the core raised {name} ({error}), which the recorded one did not"
                    raise Differs(sentence, self.core.num_steps) from error
                self.error = error
                return
            if watch is not None:
                watch(event, answer)
            if until is not None and isinstance(event, Planned) and self.core.num_steps > until:
                return

    def take(self, event: Event) -> Answer:
        """What the core answers to the next event; raises `Differs`, or whatever the core raises."""
        self.num_events += 1
        if self._is_unseen and not isinstance(event, Planned):
            raise Differs("a plan was made where the recording has none", self._step, None, self.plan)
        self.now = getattr(event, "now", self.now)
        match event:
            case Planning(now):
                self._make_plan(now)
            case Planned(plan):
                self._compare(plan)
            case Committed(now, result):
                return self.core.commit(result, now)
            case Submitted(now, frontend, request):
                return self.core.submit(frontend, request, now)
            case Masked(_, frontend, mask):
                return self.core.mask(frontend, mask)
            case Cancelled(_, frontend, request_ids, outputs):
                self.core.cancel(frontend, request_ids, outputs)
            case FrontendLost(_, frontend):
                self.core.frontend_lost(frontend)
            case Expired(now):
                return self.core.expire(now)
            case CacheReset():
                self.core.reset_prefix_cache()
            case WorkerLost():
                self.core.worker_lost()
            case WorkerCame(_, worker):
                if worker.num_pages > MAX_PAGES:
                    raise RecordingError(f"a worker cannot have {worker.num_pages} pages")
                self.core.worker_ready(worker)
            case Begin():
                self._compare_state(event)
            case End():
                self.end = event
        return None

    @property
    def _step(self) -> int:
        return self.core.num_steps - 1

    def _make_plan(self, now: float) -> None:
        before = list(self.core.waiting.passed_over)
        self.plan = self.core.plan(now)
        self._is_unseen = self.plan is not None
        reasons = zip(PassedOver, before, self.core.waiting.passed_over, strict=True)
        self.lack = next((reason for reason, old, new in reasons if new > old), None)

    def _compare(self, recorded: bytes) -> None:
        if not self._is_unseen or self.plan is None:
            raise Differs("no plan was made where the recording has one", self._step + 1, _plan_of(recorded))
        self._is_unseen = False
        self.num_plans += 1
        if encode(self.plan) != recorded:
            raise Differs("the plans differ", self._step, _plan_of(recorded), self.plan)

    def _compare_state(self, begin: Begin) -> None:
        """Between two parts: what the core is now must be what the next part begins with."""
        here, there = snapshot(self.core), begin.state
        both = zip(here.KINDS, here.to_wire(), there.to_wire(), strict=True)
        names = [name for (name, _), made, recorded in both if made != recorded]
        if names:
            raise Differs(f"at the beginning of part {begin.part} differ: {', '.join(names)}", self._step)


def _events(parts: Sequence[Part]) -> Iterator[Event]:
    """What came after the beginning of the first part, the beginnings of the others included."""
    for number, part in enumerate(parts):
        if number:
            yield part.begin
        yield from part.events()
        if part.is_cut_off and part is not parts[-1]:
            raise RecordingError(f"{part.path}: the last frame is not whole, but the recording goes on")


def _ends_badly(rest: Iterator[Event]) -> bool:
    """Whether nothing more happened to the recorded core."""
    event = next(rest, None)
    return event is None or (isinstance(event, End) and bool(event.sentence))


def _plan_of(recorded: bytes) -> StepPlan:
    try:
        plan = decode(recorded)
    except ProtocolError as error:
        raise RecordingError(f"a recorded plan is malformed: {error}") from error
    if not isinstance(plan, StepPlan):
        raise RecordingError(f"a recorded plan is a {type(plan).__name__}")
    return plan
