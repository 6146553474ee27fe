"""A scheduler without a model: speaks the protocol on a real socket and plays a script."""

import threading
from collections.abc import Callable
from typing import Any

import zmq

from gllm.meters import added_up
from gllm.protocol.channel import PeerGone, Server
from gllm.protocol.messages import (
    Cached,
    Cancel,
    Finished,
    FinishReason,
    Hello,
    ListRequests,
    Mask,
    Masks,
    Message,
    PassedOver,
    PrefixCacheReset,
    Rejected,
    Report,
    RequestList,
    RequestState,
    ResetPrefixCache,
    SchedulerReady,
    Series,
    Stats,
    StatsRequest,
    Submit,
    Tokens,
)
from gllm.protocol.wire import column

MAX_MODEL_LEN = 256


def silence(_submit: Submit) -> list[int]:
    return []


class FakeScheduler:
    """Speaks the scheduler's protocol on a real socket; what it answers is set by the test.

    script: the tokens that follow a submission. It ends them as a scheduler does: at a stop token
    (which it sends) or at max_tokens; a script that ends before both stays open. Each token of a
    constrained request waits for its mask, which need not allow it.
    """

    def __init__(self, address: str, vocab_size: int, max_model_len: int = MAX_MODEL_LEN) -> None:
        self.ready = SchedulerReady(
            max_model_len=max_model_len, num_pages=100, page_size=16, vocab_size=vocab_size
        )
        self.script: Callable[[Submit], list[int]] = silence
        self.reject: Rejected | None = None
        self.last_reason: FinishReason | None = None  # in place of the right one
        self.oldest_step_s = 0.0
        self.answers_stats = True
        self.tokens_a_commit = 1
        self.num_cached_tokens = 0  # of every prompt
        self.paused = threading.Event()
        self.submits: list[Submit] = []
        self.masks: list[Mask] = []
        self.num_mask_messages = 0
        self.reports: dict[bytes, list[Series]] = {}
        self.listed: list[RequestState] = []
        self.cancelled: list[int] = []
        self.hellos = 0
        self._address = address
        self._running: dict[tuple[bytes, int], tuple[Submit, list[int]]] = {}
        self._begun: set[int] = set()
        self._masked: set[tuple[bytes, int]] = set()  # requests whose next token has its mask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def reset(self) -> None:
        self.script, self.reject, self.last_reason = silence, None, None
        self.oldest_step_s, self.answers_stats, self.tokens_a_commit = 0.0, True, 1
        self.num_cached_tokens = 0
        self.paused.clear()
        self.submits.clear()
        self.masks.clear()
        self.cancelled.clear()

    def _run(self) -> None:
        context: zmq.Context[Any] = zmq.Context()
        server = Server(context, self._address)
        while not self._stop.is_set():
            received = server.receive(0.001 if self._running else 0.02)
            while received is not None:
                try:
                    self._take(server, *received)
                except PeerGone:
                    self._forget(received[0])
                received = server.receive(0.0)
            if not self.paused.is_set():
                self._commit(server)
        server.close()
        context.destroy(linger=0)

    def _take(self, server: Server, peer: bytes, message: Message) -> None:
        match message:
            case Hello():
                self.hellos += 1
                server.send(peer, self.ready)
            case StatsRequest() if self.answers_stats:
                counts = dict.fromkeys(Stats.__slots__, 0) | {
                    "passed_over": [0] * len(PassedOver),
                    "oldest_step_s": self.oldest_step_s,
                    "series": added_up(series for held in self.reports.values() for series in held),
                }
                server.send(peer, Stats(**counts))
            case Report():
                self.reports[peer] = message.series
            case ListRequests():
                server.send(peer, RequestList(message.question, 1, 0, self.listed))
            case ResetPrefixCache():
                server.send(peer, PrefixCacheReset(message.question, 5))
            case Submit() if self.reject is not None:
                server.send(peer, Rejected(message.request_id, self.reject.code, self.reject.sentence))
            case Submit():
                self.submits.append(message)
                self._running[peer, message.request_id] = (message, list(self.script(message)))
            case Masks():
                self.masks += message.masks
                self.num_mask_messages += 1
                self._masked.update((peer, mask.request_id) for mask in message.masks)
            case Cancel():
                self.cancelled += message.request_ids
                for request_id in message.request_ids:
                    self._running.pop((peer, request_id), None)

    def _commit(self, server: Server) -> None:
        """One token (or some) of every running request, in one message a peer."""
        for peer in {peer for peer, _ in self._running}:
            ids, tokens, finished = [], [], []
            cached: list[Cached] = []
            for (owner, request_id), (submit, left) in list(self._running.items()):
                if owner != peer:
                    continue
                if submit.is_constrained and (owner, request_id) not in self._masked:
                    continue
                self._masked.discard((owner, request_id))
                for _ in range(min(1 if submit.is_constrained else self.tokens_a_commit, len(left))):
                    token = left.pop(0)
                    submit.max_tokens -= 1
                    if self.num_cached_tokens and request_id not in self._begun:
                        cached.append(Cached(len(ids), self.num_cached_tokens))
                    self._begun.add(request_id)
                    ids.append(request_id)
                    tokens.append(token)
                    reason = None
                    if token in submit.stop_token_ids:
                        reason = FinishReason.STOP
                    elif submit.max_tokens == 0 or (self.last_reason and not left):
                        reason = self.last_reason or FinishReason.LENGTH
                    if reason is not None:
                        finished.append(Finished(len(ids) - 1, reason, 0, 0.0, 0.0, 0.0))
                        del self._running[owner, request_id]
                        break
            if ids:
                try:
                    server.send(peer, Tokens(column(ids), column(), column(tokens), finished, cached))
                except PeerGone:
                    self._forget(peer)

    def _forget(self, peer: bytes) -> None:
        for key in [key for key in self._running if key[0] == peer]:
            del self._running[key]
