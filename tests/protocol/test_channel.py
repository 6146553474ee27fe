"""Channels over real sockets: private, typed, never blocking."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from gllm.protocol.channel import Channel, PeerGone, Server, endpoint, hello
from gllm.protocol.messages import Cancel, Drain, Role, Stop
from gllm.protocol.wire import ProtocolError, column

End = TypeVar("End", Channel, Server)


class Wires:
    """Sockets of one test, in one directory, all closed at its end."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_dir: Path, stack: ExitStack) -> None:
        self.context = context
        self.run_dir = run_dir
        self.stack = stack

    def keep(self, end: End) -> End:
        return self.stack.enter_context(closing(end))

    def server(self) -> Server:
        return self.keep(Server(self.context, endpoint(self.run_dir, "s")))

    def dealer(self, identity: str | None = None) -> Channel:
        return self.keep(Channel.connect(self.context, zmq.DEALER, endpoint(self.run_dir, "s"), identity))


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    with zmq.Context() as context, ExitStack() as stack:
        yield Wires(context, tmp_path, stack)


def test_a_server_answers_the_peer_that_spoke(wires: Wires) -> None:
    server, ann, bob = wires.server(), wires.dealer(), wires.dealer("bob")
    ann.send(hello(Role.FRONTEND))
    bob.send(Cancel(column([1, 2])))
    received = dict([server.receive(60), server.receive(60)])  # type: ignore[list-item]
    assert received.pop(b"bob") == Cancel(column([1, 2]))
    ((ann_id, said),) = received.items()
    assert said == hello(Role.FRONTEND)
    server.send(ann_id, Stop())
    assert ann.receive(60) == Stop()
    assert bob.receive(0) is None


def test_a_peer_that_never_came_is_gone_at_once(wires: Wires) -> None:
    with pytest.raises(PeerGone):
        wires.server().send(b"nobody", Stop())
    push = wires.keep(Channel.bind(wires.context, zmq.PUSH, endpoint(wires.run_dir, "p")))
    with pytest.raises(PeerGone):
        push.send(Drain())


def test_garbage_is_a_protocol_error_and_the_next_message_is_read(wires: Wires) -> None:
    server, peer = wires.server(), wires.dealer()
    peer.socket.send(b"\x00garbage")
    peer.socket.send_multipart([b"a", b"b"])
    peer.send(Drain())
    for _ in range(2):
        with pytest.raises(ProtocolError):
            server.receive(60)
    received = server.receive(60)
    assert received is not None
    assert received[1] == Drain()


def test_a_socket_path_that_the_system_cannot_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--ipc-dir"):
        endpoint(tmp_path / ("d" * 120), "s")
