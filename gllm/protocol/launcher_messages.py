"""Launcher and children: the life of a process."""

from gllm.protocol.base import MAX_SENTENCE, Message, message
from gllm.protocol.wire import Text, wire


@message(30)
class Ready(Message):
    """This child serves; `detail` is what the launcher should tell the user (the URL, say)."""

    detail: str = wire(Text(MAX_SENTENCE))


@message(31)
class Failed(Message):
    """This child ends, and why."""

    sentence: str = wire(Text(MAX_SENTENCE))


@message(32)
class Drain(Message):
    """Take nothing new, finish what runs, answer `Drained`."""


@message(33)
class Drained(Message):
    """Nothing runs any more."""


@message(34)
class Stop(Message):
    """End now."""
