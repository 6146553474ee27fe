"""What all connections have in common: the limits, `Hello`, and the vocabulary `message`.

It knows the messages of those modules that were imported; `messages` imports all of them.
"""

from enum import StrEnum

from gllm.protocol.tagged import Tagged, Vocabulary
from gllm.protocol.wire import Int, ProtocolError, Text, wire

PROTOCOL_VERSION = 4

MAX_SEQUENCES = 1 << 16  # rows of a plan, slots of a worker, requests in one column
MAX_TOKENS = 1 << 24  # tokens of one prompt
MAX_PAGES = 1 << 24  # pages of one plan
MAX_OUTPUTS = 128  # `n` of one request
MAX_STOP_IDS = 1024
MAX_SENTENCE = 4096
MAX_VOCABULARY = 1 << 20  # tokens that a mask can speak of
MAX_SALT = 256
MAX_NAME = 128  # characters of what a request is called
MAX_LABEL = 256
MAX_SERIES = 1 << 14
MAX_LISTED = 1 << 12


class Role(StrEnum):
    """Who speaks on a connection."""

    FRONTEND = "frontend"
    SCHEDULER = "scheduler"
    WORKER = "worker"


class Message(Tagged):
    """A record that travels by itself."""

    __slots__ = ()


message = Vocabulary(Message)


@message(1)
class Hello(Message):
    """Who is on this connection. `epoch` counts the worker's starts (0 where it does not matter)."""

    protocol_version: int = wire(Int())
    role: str = wire(Text(16))
    epoch: int = wire(Int())

    def check(self) -> None:
        if self.protocol_version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the {self.role:.16} speaks protocol version {self.protocol_version}, this process "
                f"{PROTOCOL_VERSION}: start all processes from one installation"
            )
        if self.role not in list(Role):
            raise ProtocolError(f"unknown role {self.role!r}")
