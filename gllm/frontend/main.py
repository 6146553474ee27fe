"""The frontend process: its sockets, its event loop, its end.

Knows the order of starting and stopping; what a request means is the gateway's business.
"""

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from gllm.checkpoint import CheckpointError, open_checkpoint
from gllm.config import DeploymentConfig
from gllm.frontend.app import Gateway
from gllm.frontend.chat import ChatTemplate
from gllm.frontend.connection import MAX_HEADER_BYTES, Connection
from gllm.frontend.defaults import sampling_defaults
from gllm.frontend.engine import EngineClient, EngineLost
from gllm.frontend.families import Family
from gllm.frontend.generation import TextEngine
from gllm.frontend.served_model import ServedModel
from gllm.frontend.timed import engine_client
from gllm.frontend.tokenizer import Tokenizer
from gllm.frontend.tool_calls.forms import form_in_force
from gllm.process import FRONTENDS, Child, StartError, run_child
from gllm.protocol.messages import Drain, Drained, Role, Stop
from gllm.protocol.wire import ProtocolError
from gllm.timeline import drawn

log = logging.getLogger("gllm")

BACKLOG = 2048
KEEP_ALIVE_S = 65  # longer than common clients and proxies keep an idle connection
REPORT_S = 1.0
GC_THRESHOLDS = (20_000, 10, 10)  # of Python's collector: hundreds of open requests are no garbage
STOP_GRACE_S = 1  # for the last words of open streams


def main() -> None:
    run_child(Role.FRONTEND, run)


def run(child: Child) -> None:
    """Serve until the launcher says stop."""
    options = child.config.frontend
    listener = listen(options.host, options.port, shared=options.num_processes > 1)
    uvloop.run(Frontend(child, listener).live())


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket, so that a port in use is known before anything is loaded; raises `StartError`.

    shared: other frontends have sockets of their own on this port, and the system shares the connections
    out among them (SO_REUSEPORT) evenly; of one common socket, mostly the same process would take them.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as error:
        raise StartError(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another one with --port "
            "(0: any free one) or --host, or stop the program that has it"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """How to reach it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn with our limits, that calls back when it listens and leaves signals to the launcher."""

    def __init__(self, gateway: Gateway, on_started: Callable[[], None]) -> None:
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        super().__init__(
            uvicorn.Config(
                gateway,
                http=Connection,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks where a client is
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_GRACE_S,
                backlog=BACKLOG,
            )
        )
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the launcher's business."""
        yield


class Frontend:
    """The parts of the process: engine client, gateway, HTTP server, and what the launcher says."""

    def __init__(self, child: Child, listener: socket.socket) -> None:
        self._child = child
        self._config: DeploymentConfig = child.config
        self._listener = listener
        self._stopping = asyncio.Event()
        self._gateway: Gateway | None = None
        self._draining: asyncio.Task[None] | None = None

    async def live(self) -> None:
        """Start, serve, stop."""
        control = self._child.control.socket
        loop = asyncio.get_running_loop()
        loop.add_reader(control.fileno(), self._listen_to_launcher)
        self._listen_to_launcher()
        trace_file = self._config.observability.trace_file
        with drawn(trace_file, self._child.run_dir, Role.FRONTEND) as timeline:
            engine = engine_client(self._child.address(FRONTENDS), timeline)
            try:
                if await self._start(engine):
                    await self._serve(engine)
            finally:
                loop.remove_reader(control.fileno())
                await engine.close()

    async def _start(self, engine: EngineClient) -> bool:
        """Load what is needed while the scheduler comes up; False if told to stop before that."""
        model = await asyncio.to_thread(self._load, engine)
        starting = asyncio.ensure_future(engine.start(None))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            return False
        model.text.tokenizer.check_fits(starting.result().vocab_size)
        config = self._config
        like_vllm = config.observability.metrics_compat == "vllm"
        self._gateway = Gateway(model, config.limits, config.frontend, like_vllm=like_vllm)
        return True

    def _load(self, engine: EngineClient) -> ServedModel:
        model = self._config.model
        try:
            checkpoint = open_checkpoint(model.path, weights=model.load_format != "dummy")
        except CheckpointError as error:
            raise StartError(str(error)) from None
        tokenizer = Tokenizer.load(checkpoint.path)
        tokenizer.check_fits(checkpoint.vocab_size)
        template = ChatTemplate.find(tokenizer, model.chat_template)
        defaults = sampling_defaults(checkpoint.generation_config, model.generation_config)
        text = TextEngine(engine, tokenizer, checkpoint.eos_token_ids, model.seed, defaults)
        return ServedModel(model.name, text, template, self._tool_form(tokenizer.family))

    def _tool_form(self, family: Family | None) -> str | None:
        form = form_in_force(self._config.frontend, family)
        if form is not None:
            log.info("calls of tools are read in the form of %s (--tool-call-parser)", form)
        return form

    async def _serve(self, engine: EngineClient) -> None:
        """Take HTTP requests until told to stop."""
        assert self._gateway is not None
        server = HttpServer(self._gateway, self._tell_ready)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        stopping = asyncio.create_task(self._stopping.wait())
        reporting = asyncio.create_task(_report_often(engine))
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        reporting.cancel()
        await engine.close()  # what is still open ends with an error of its own
        server.should_exit = True
        await serving
        self._gateway.close()

    def _tell_ready(self) -> None:
        gc.collect()
        gc.freeze()  # what stays for ever need not be walked again between the tokens of a stream
        gc.set_threshold(*GC_THRESHOLDS)
        self._child.ready(url_of(self._listener))
        self._listen_to_launcher()

    def _listen_to_launcher(self) -> None:
        """Take what the launcher said.

        The descriptor of a ZeroMQ socket reports changes only: everything must be taken each time, and
        after each send, too.
        """
        while True:
            try:
                message = self._child.told()
            except ProtocolError as error:
                log.error("the launcher sent what is no message: %s", error)
                continue
            match message:
                case None:
                    return
                case Drain():
                    self._draining = self._draining or asyncio.create_task(self._drain())
                case Stop():
                    self._stopping.set()

    async def _drain(self) -> None:
        if self._gateway is not None:
            await self._gateway.drain()
        self._child.control.send(Drained())
        self._listen_to_launcher()


async def _report_often(engine: EngineClient) -> None:
    """Keep the scheduler's copy of what was counted here fresh, for scrapes of other frontends."""
    told = engine.meters.series()
    while True:
        await asyncio.sleep(REPORT_S)
        if told != (series := engine.meters.series()):
            with contextlib.suppress(EngineLost):
                await engine.report()
                told = series


if __name__ == "__main__":
    main()
