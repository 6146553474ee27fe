"""An HTTP/1.1 response and its server-sent events, taken apart as bytes arrive.

No sockets and no clock: bytes in, bytes out, so that it is cheap (the client of a bench must not be
what is measured) and tested by cutting a response at every place. Knows nothing of what events say.
"""

MAX_HEAD = 1 << 16
MAX_CHUNK_LINE = 1 << 10


class ResponseError(Exception):
    """What arrived is no HTTP response, or only a part of one."""


class Response:
    """`feed` gives the body's bytes of what arrived. status: 0 until the head is there."""

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.is_done = False
        self.keeps_alive = True
        self._rest = b""
        self._is_chunked = False
        self._left: int | None = None  # bytes of the body or of a chunk still to come; None: until the end

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        if not self.status and not self._read_head():
            return b""
        if self._is_chunked:
            return self._read_chunks()
        body, self._rest = self._rest, b""
        if self._left is not None:
            body, self._rest = body[: self._left], body[self._left :]
            self._left -= len(body)
            self.is_done = not self._left
        return body

    def end(self) -> None:
        """The connection is closed; raises `ResponseError` where more was to come."""
        self.keeps_alive = False
        if not self.status or self._is_chunked or self._left is not None:
            raise ResponseError("the server closed the connection before its answer was whole")
        self.is_done = True

    def _read_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            if len(head) > MAX_HEAD:
                raise ResponseError("the answer has no end of its headers: is this an HTTP server?")
            return False
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = status_line.partition(" ")
        code, _, self.reason = status.partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdigit():
            raise ResponseError(f"the answer begins with {status_line:.80}: is this an HTTP server?")
        fields = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        self.status, self._rest = int(code), rest
        self.keeps_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._is_chunked, self._left = True, 0
        elif (length := headers.get("content-length", "")).isdigit():
            self._left = int(length)
            self.is_done = not self._left
        return True

    def _read_chunks(self) -> bytes:
        """The bytes of all chunks in what arrived. `_left` counts a chunk's final line break, too."""
        parts = []
        data, at = self._rest, 0
        while not self.is_done:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                at += len(piece)
                # The two last bytes of a chunk are its line break, however they arrive.
                parts.append(piece[: max(self._left - 2, 0)])
                self._left -= len(piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_CHUNK_LINE:
                    raise ResponseError("the answer has a chunk without a size")
                break
            size = self._chunk_size(data[at:end])
            if size:
                at, self._left = end + 2, size + 2
            elif data[end : end + 4] == b"\r\n\r\n":  # no trailers: what every server sends
                at, self.is_done = end + 4, True
            else:
                self.is_done = (stop := data.find(b"\r\n\r\n", end)) >= 0
                at = stop + 4 if self.is_done else at
                break
        self._rest = data[at:]
        return b"".join(parts)

    @staticmethod
    def _chunk_size(line: bytes) -> int:
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError:
            raise ResponseError("the answer has a chunk without a size") from None


class Events:
    """`feed` gives the data of the server-sent events that are whole; each is one line, as OpenAI's are."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
