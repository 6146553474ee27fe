"""One client's connection: uvicorn's, with a limit on how long its headers may take, with errors in the
API's form, and with a short way for the events of a stream.

Knows HTTP/1.1's framing by h11, which bounds the bytes of request line and headers. Requests and the
beginnings and ends of answers pass through h11 with all its checks; an event in between is a chunk
(RFC 9112, 7.1) that is written as it is.
"""

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from gllm.frontend.errors import ApiError

CONNECTION = "connection"  # its name in the state of a request's scope
HEADER_TIMEOUT_S = 30.0
MAX_HEADER_BYTES = 64 * 1024
MALFORMED = "this is not a valid HTTP request: check its request line, headers and framing"


class Connection(H11Protocol):
    """A connection that a client cannot hold by sending a request for ever."""

    _header_timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, CONNECTION: self}, _loop)

    def write_event(self, event: bytes) -> bool:
        """Write a piece of the answer that is being streamed, at once and in one piece.

        False if that is not possible: the client reads too slowly, has left, or speaks HTTP/1.0, which
        has no chunks.
        """
        if self.flow.write_paused or self.transport.is_closing() or self.conn.our_state is not h11.SEND_BODY:
            return False
        if self.conn.their_http_version != b"1.1":
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        return True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._header_timer is None and self.conn.their_state is h11.IDLE:
            self._await_header()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._header_came()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and self._header_timer is None:
            self._await_header()  # the beginning of the next request came with the last one

    def send_400_response(self, msg: str) -> None:
        """uvicorn found bytes that are no request."""
        del msg
        # h11 knows that status for headers over its limit; uvicorn does not pass it on.
        too_long = len(self.conn.trailing_data[0]) >= MAX_HEADER_BYTES
        if too_long:
            self._refuse(ApiError(431, f"the headers are longer than {MAX_HEADER_BYTES} bytes: send less"))
        else:
            self._refuse(ApiError(400, MALFORMED))

    def _await_header(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._header_is_late)

    def _header_came(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_is_late(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self._refuse(ApiError(408, f"the headers did not arrive within {HEADER_TIMEOUT_S:g} s"))

    def _refuse(self, error: ApiError) -> None:
        """Answer without a request, and close. Silent where an answer has already begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error.body()
            headers: list[tuple[bytes, bytes]] = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            parts: list[Any] = [
                h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
