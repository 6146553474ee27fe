"""Scheduler and worker processes for one Python program, and the event loop that talks to them.

The loop runs in a thread of its own, so that callers may block, also in a notebook, where a loop
runs already. Knows nothing of calls and results; torch stays in the worker process.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any, TypeVar

from gllm.checkpoint import open_checkpoint
from gllm.config import DeploymentConfig
from gllm.frontend.chat import ChatTemplate
from gllm.frontend.defaults import sampling_defaults
from gllm.frontend.engine import EngineClient, EngineLost
from gllm.frontend.generation import TextEngine
from gllm.frontend.timed import engine_client
from gllm.frontend.tokenizer import Tokenizer
from gllm.launch import OFFLINE, Deployment, LaunchError
from gllm.process import FRONTENDS, StartError
from gllm.protocol.messages import Role
from gllm.timeline import Timeline

T = TypeVar("T")

CLOSED = "this LLM is closed: make a new one"
LAST_WORDS_S = 2.0  # how long the launcher may take to learn why a scheduler is gone


class OfflineEngine:
    """A running engine. Its methods may be called from any thread but the loop's own.

    After a child died every call raises `LaunchError` with the reason, those under way included.
    """

    def __init__(self, config: DeploymentConfig) -> None:
        # Mistakes in it are cheapest to find here.
        self.checkpoint = open_checkpoint(config.model.path, weights=config.model.load_format != "dummy")
        try:
            self.tokenizer = Tokenizer.load(self.checkpoint.path)
            self.tokenizer.check_fits(self.checkpoint.vocab_size)
            self.template = ChatTemplate.find(self.tokenizer, config.model.chat_template)
            self._defaults = sampling_defaults(
                self.checkpoint.generation_config, config.model.generation_config
            )
        except StartError as error:
            raise LaunchError(str(error)) from error
        self.max_open = config.scheduler.max_num_queued_reqs  # what the scheduler takes without refusing
        self.turns = asyncio.Semaphore(self.max_open)
        self._pid = os.getpid()
        self._failed = threading.Event()
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._closed = False
        self._client: EngineClient | None = None
        self._timeline = Timeline() if config.observability.trace_file is not None else None
        self._deployment = Deployment.start(_quiet(config), OFFLINE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gllm-offline", daemon=True)
        self._thread.start()
        try:
            self._deployment.on_failure(self._on_failure)
            self.text = self.call(self._connect(config))
        except BaseException:
            self.close()
            raise

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What `coroutine` returns when run in the loop. Ctrl-C cancels it and goes on to the caller."""
        return self._result(self._submit(coroutine))

    def iterate(self, source: AsyncGenerator[T]) -> Generator[T]:
        """The items of `source` as they come; closing the iterator, or Ctrl-C, closes `source`."""
        items: SimpleQueue[tuple[T] | None] = SimpleQueue()

        async def pump() -> None:
            async with aclosing(source):
                async for item in source:
                    items.put((item,))

        future = self._submit(pump())
        # Not at the end of `pump`: a coroutine that is cancelled before it began has no end.
        future.add_done_callback(lambda _: items.put(None))
        try:
            while (item := items.get()) is not None:
                yield item[0]
            self._result(future)
        finally:
            future.cancel()

    def close(self) -> None:
        """End the loop and the processes; may be called again."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:  # in a fork the processes are still its parent's
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._timeline is not None:
            self._timeline.save(self._deployment.run_dir, Role.FRONTEND)
        self._deployment.stop()

    def abandon(self) -> None:
        """As `close`, for the garbage collector: it may come on any thread, even one that is joined there."""
        if threading.current_thread() is threading.main_thread():
            self.close()
        else:
            threading.Thread(target=self.close, name="gllm-close").start()

    # ---- inside --------------------------------------------------------------------------------

    async def _connect(self, config: DeploymentConfig) -> TextEngine:
        self._client = engine_client(self._deployment.address(FRONTENDS), self._timeline)
        await self._client.start(None)
        return TextEngine(
            self._client, self.tokenizer, self.checkpoint.eos_token_ids, config.model.seed, self._defaults
        )

    async def _disconnect(self) -> None:
        """End every task of the loop, those of callers included."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            if hasattr(self, "text"):
                self.text.close()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        if os.getpid() != self._pid:
            coroutine.close()
            raise RuntimeError(f"this LLM belongs to process {self._pid}: make one in each process")
        with self._lock:
            if self._closed or self._failed.is_set():
                coroutine.close()
                raise LaunchError(self._deployment.failure or CLOSED)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def _result(self, future: "Future[T]") -> T:
        try:
            return future.result()
        except (CancelledError, EngineLost) as error:
            if not self._closed:
                self._failed.wait(LAST_WORDS_S)  # the socket may know of the end before the launcher does
            raise LaunchError(self._deployment.failure or CLOSED) from error
        finally:
            future.cancel()

    def _on_failure(self, _sentence: str) -> None:
        """On the launcher's thread: a child died, so nothing that is under way can end well."""
        with self._lock:
            self._failed.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()


def _quiet(config: DeploymentConfig) -> DeploymentConfig:
    """Where nobody chose a log level: a program's terminal is its own, so only warnings come there."""
    if config.sources.get("frontend.log_level", "default") != "default":
        return config
    return config.model_copy(update={"frontend": config.frontend.model_copy(update={"log_level": "warning"})})
