"""Messages to bytes and back.

`decode` raises `ProtocolError` for anything that is not a message, whatever the bytes.
"""

from gllm.protocol.messages import Message
from gllm.protocol.messages import message as messages
from gllm.protocol.tagged import pack
from gllm.protocol.wire import ProtocolError

MAX_MESSAGE_BYTES = 1 << 28  # a prompt of MAX_TOKENS is a quarter of this


def encode(message: Message) -> bytes:
    """The bytes of `message`."""
    return pack(message)


def decode(data: bytes) -> Message:
    """The message in `data`, each field checked for type, length and range; raises `ProtocolError`."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes: at most {MAX_MESSAGE_BYTES} are allowed")
    return messages.read(data)
