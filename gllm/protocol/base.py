"""What all connections have in common: the limits, `Hello`, and how a record becomes a message.

`BY_TAG` knows the messages of those modules that were imported; `messages` imports all of them.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, TypeVar, dataclass_transform

from gllm.protocol.wire import Int, ProtocolError, Record, Text, record, wire

PROTOCOL_VERSION = 3

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

    LAUNCHER = "launcher"
    FRONTEND = "frontend"
    SCHEDULER = "scheduler"
    WORKER = "worker"


class Message(Record):
    """A record that travels by itself; its tag is the first item of the array."""

    TAG: ClassVar[int] = -1
    __slots__ = ()


M = TypeVar("M", bound=Message)
BY_TAG: dict[int, type[Message]] = {}


@dataclass_transform(field_specifiers=(wire,))
def message(tag: int) -> Callable[[type[M]], type[M]]:
    """Class decorator: a record that travels under the number `tag`."""

    def register(cls: type[M]) -> type[M]:
        made = record(cls)
        made.TAG = tag
        if tag in BY_TAG:
            raise TypeError(f"{cls.__name__} and {BY_TAG[tag].__name__} share the tag {tag}")
        BY_TAG[tag] = made
        return made

    return register


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
