"""Typed channels over ZeroMQ: messages in, messages out, `ipc://` in a private directory only.

Knows sockets and their limits; nothing of what messages mean. The first message on every
connection is `Hello`; the receiving side hands it out like any other.
"""

import os
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from gllm.protocol.codec import MAX_MESSAGE_BYTES, decode, encode
from gllm.protocol.messages import PROTOCOL_VERSION, Hello, Message, Role
from gllm.protocol.wire import ProtocolError

HIGH_WATER_MARK = 100_000  # messages; a peer this far behind counts as gone
MAX_IPC_PATH = 107  # bytes of sockaddr_un.sun_path without its final zero


class PeerGone(ConnectionError):
    """The peer has left, or reads nothing any more."""


def endpoint(run_dir: Path, name: str) -> str:
    """The address of the socket `name` in `run_dir`; raises ValueError if the system cannot take it."""
    path = run_dir / f"{name}.sock"
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise ValueError(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, but the system takes at most "
            f"{MAX_IPC_PATH}: choose a shorter directory with --ipc-dir"
        )
    return f"ipc://{path}"


def _limit(socket: Any) -> None:
    """No socket waits for its peer when closed, nor holds more than the limits."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)


def hello(role: Role, epoch: int = 0) -> Hello:
    """The first message of a connection."""
    return Hello(PROTOCOL_VERSION, role, epoch)


class Channel:
    """One end of a two-party channel: PUSH, PULL or DEALER."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket

    @classmethod
    def bind(cls, context: zmq.Context[Any], kind: int, address: str) -> "Channel":
        socket: zmq.Socket[bytes] = context.socket(kind)
        _limit(socket)
        socket.bind(address)
        return cls(socket)

    @classmethod
    def connect(
        cls, context: zmq.Context[Any], kind: int, address: str, identity: str | None = None
    ) -> "Channel":
        """`identity` is the name under which a `Server` at the other end sees this one."""
        socket: zmq.Socket[bytes] = context.socket(kind)
        _limit(socket)
        if identity is not None:
            socket.setsockopt(zmq.IDENTITY, identity.encode())
        socket.connect(address)
        return cls(socket)

    def send(self, message: Message) -> None:
        """Never blocks: raises `PeerGone` where nobody can take the message."""
        try:
            self.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again as error:
            raise PeerGone("the peer takes no more messages") from error

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None if `timeout_s` passes first (None waits for ever)."""
        if timeout_s and not self.socket.poll(int(timeout_s * 1000)):
            return None
        try:
            return decode(self.socket.recv(0 if timeout_s is None else zmq.NOBLOCK))
        except zmq.Again:
            return None

    def close(self) -> None:
        self.socket.close()


class Server:
    """The ROUTER end: many peers, each known by its identity."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        _limit(self.socket)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.bind(address)

    def send(self, peer: bytes, message: Message) -> None:
        """Never blocks: raises `PeerGone` where this peer left or lags too far behind."""
        try:
            self.socket.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            raise PeerGone(f"peer {peer!r} is gone") from error

    def receive(self, timeout_s: float | None = None) -> tuple[bytes, Message] | None:
        """The next message with its sender; None if `timeout_s` passes first.

        Raises `ProtocolError` for what is no message.
        """
        if timeout_s and not self.socket.poll(int(timeout_s * 1000)):
            return None
        try:
            frames = self.socket.recv_multipart(0 if timeout_s is None else zmq.NOBLOCK)
        except zmq.Again:
            return None
        if len(frames) != 2:
            raise ProtocolError(f"expected one frame a message, got {len(frames) - 1}")
        return frames[0], decode(frames[1])

    def close(self) -> None:
        self.socket.close()


class AsyncChannel:
    """A DEALER end for a process that lives in asyncio."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self.socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        _limit(self.socket)
        self.socket.connect(address)

    async def send(self, message: Message) -> None:
        """Raises `PeerGone` where nobody can take the message."""
        try:
            await self.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again as error:
            raise PeerGone("the peer takes no more messages") from error

    async def receive(self) -> Message:
        return decode(await self.socket.recv())

    def close(self) -> None:
        self.socket.close()
