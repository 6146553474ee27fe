"""A `Scheduler` whose inputs and plans are written down while it works.

Every input is noted before the core sees it: if the core fails at it, or never comes back, the
recording ends with that input. Knows which calls decide something, not how events become files.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gllm.config import ObservabilityConfig
from gllm.process import StartError
from gllm.protocol.codec import encode
from gllm.protocol.messages import (
    PROTOCOL_VERSION,
    Mask,
    Rejected,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    Tokens,
    WorkerReady,
)
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.flight import Flight
from gllm.scheduler.journal import Journal
from gllm.scheduler.recording import (
    FORMAT_VERSION,
    Begin,
    CacheReset,
    Cancelled,
    Committed,
    End,
    Event,
    Expired,
    FrontendLost,
    Masked,
    Planned,
    Planning,
    RecordingError,
    Submitted,
    WorkerCame,
    WorkerLost,
    frame,
)
from gllm.scheduler.snapshot import snapshot

log = logging.getLogger("gllm")


class Recorder:
    """What the scheduler process uses of a `Scheduler`, with every call that decides something noted."""

    def __init__(
        self, core: Scheduler, journal: Journal, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` gives the time of inputs that come without one."""
        self.core = core
        self._journal = journal
        self._clock = clock
        self._id = os.urandom(8).hex()
        self._num_parts = 0
        self._begin_part()

    @property
    def flights(self) -> deque[Flight]:
        return self.core.flights

    def submit(self, frontend: bytes, request: Submit, now: float) -> Rejected | None:
        self._note(Submitted(now, frontend, request))
        return self.core.submit(frontend, request, now)

    def mask(self, frontend: bytes, mask: Mask) -> Rejected | None:
        self._note(Masked(self._clock(), frontend, mask))
        return self.core.mask(frontend, mask)

    def cancel(self, frontend: bytes, request_ids: Iterable[int], outputs: Sequence[int] = ()) -> None:
        request_ids, outputs = column(request_ids), column(outputs)
        self._note(Cancelled(self._clock(), frontend, request_ids, outputs))
        self.core.cancel(frontend, request_ids, outputs)

    def frontend_lost(self, frontend: bytes) -> None:
        self._note(FrontendLost(self._clock(), frontend))
        self.core.frontend_lost(frontend)

    def expire(self, now: float) -> list[tuple[bytes, Rejected]]:
        expired = self.core.expire(now)
        if expired:  # the process asks again and again: only what changes something is noted
            self._write(Expired(now))
        return expired

    def reset_prefix_cache(self) -> int:
        self._note(CacheReset(self._clock()))
        return self.core.reset_prefix_cache()

    def plan(self, now: float) -> StepPlan | None:
        if not self.core.running and not self.core.waiting:
            return self.core.plan(now)  # None, and nothing changes
        self._note(Planning(now))
        plan = self.core.plan(now)
        if plan is not None:
            self._write(Planned(encode(plan)))
        return plan

    def commit(self, result: StepResult, now: float) -> dict[bytes, Tokens]:
        self._note(Committed(now, result))
        return self.core.commit(result, now)

    def worker_ready(self, worker: WorkerReady) -> None:
        self._note(WorkerCame(self._clock(), worker))
        self.core.worker_ready(worker)

    def worker_lost(self) -> None:
        self._note(WorkerLost(self._clock()))
        self.core.worker_lost()

    def stats(self, now: float) -> Stats:
        return self.core.stats(now)

    def close(self, sentence: str = "") -> None:
        """The end of the recording, and why if it is not the ordinary one."""
        self._write(End(sentence[:4096]))
        self._journal.close()

    def _note(self, event: Event) -> None:
        """Write down an input that the core has not seen yet."""
        if self._journal.is_full:
            self._begin_part()
        self._write(event)

    def _write(self, event: Event) -> None:
        """Into the current part; what cannot be written ends the recording, not the service."""
        try:
            self._journal.write(frame(event))
        except (ValueError, OverflowError) as error:
            self._journal.stop(str(error))

    def _begin_part(self) -> None:
        begin = Begin(
            format_version=FORMAT_VERSION,
            protocol_version=PROTOCOL_VERSION,
            recording=self._id,
            part=self._num_parts,
            written_at=time.time(),
            now=self._clock(),
            state=snapshot(self.core),
        )
        self._journal.begin_part(frame(begin))
        self._num_parts += 1


@contextmanager
def recorded(core: Scheduler, options: ObservabilityConfig) -> Iterator[Scheduler | Recorder]:
    """`core`, recorded if a deployment asks for that; the recording ends with the block."""
    if options.record_file is None:
        yield core
        return
    path = Path(options.record_file).absolute()
    try:
        journal = Journal(path, options.record_max_bytes, options.record_max_files)
    except RecordingError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"cannot record into {path}: {error.strerror}") from error
    recorder = Recorder(core, journal)
    log.info("recording into %s, token ids of prompts included", path)
    try:
        yield recorder
    except BaseException as error:
        recorder.close(f"{type(error).__name__}: {error}")
        raise
    recorder.close()
