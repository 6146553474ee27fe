"""Messages to bytes and back: msgpack arrays `[tag, field, ...]`.

`decode` raises `ProtocolError` for anything that is not a message, whatever the bytes.
"""

import msgpack

from gllm.protocol.messages import BY_TAG, Message
from gllm.protocol.wire import ProtocolError, read_record

MAX_MESSAGE_BYTES = 1 << 28  # a prompt of MAX_TOKENS is a quarter of this


def encode(message: Message) -> bytes:
    """The bytes of `message`."""
    packed: bytes = msgpack.packb([message.TAG, *message.to_wire()])
    return packed


def decode(data: bytes) -> Message:
    """The message in `data`, each field checked for type, length and range; raises `ProtocolError`."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes: at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        raw = msgpack.unpackb(data, max_map_len=0, max_ext_len=0)
    # msgpack raises its own errors, ValueError for limits and UnicodeDecodeError for bad strings,
    # and RecursionError's kin (StackError) for nesting: all of them mean the same here.
    except Exception as error:
        raise ProtocolError(f"not msgpack: {type(error).__name__}") from error
    if type(raw) is not list or not raw or type(raw[0]) is not int:
        raise ProtocolError("a message is an array that begins with its tag")
    cls = BY_TAG.get(raw[0])
    if cls is None:
        raise ProtocolError(f"unknown message tag {raw[0]}")
    return read_record(cls, raw[1:])
