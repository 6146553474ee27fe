"""Every message survives the wire, and nothing else does."""

from dataclasses import fields
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given, settings

from gllm.protocol import wire
from gllm.protocol.codec import decode, encode
from gllm.protocol.logits import Logprobs, Shaping
from gllm.protocol.messages import (
    PROTOCOL_VERSION,
    Admit,
    Cached,
    Finished,
    Hello,
    Message,
    Role,
    Sampling,
    StepPlan,
    StepResult,
    Submit,
    Tokens,
    message,
)
from gllm.protocol.tagged import Tagged
from gllm.protocol.wire import ProtocolError, Record, column, floats

BY_TAG = message.by_tag


def values(kind: Any) -> st.SearchStrategy[Any]:
    """What a field of this kind may hold."""
    match kind:
        case wire.Int(low, high):
            return st.integers(low, high)
        case wire.Float(low, high):
            return st.floats(low, high, allow_nan=False)
        case wire.Flag():
            return st.booleans()
        case wire.Text(max_len):
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=min(max_len, 20))
        case wire.Bytes(max_len):
            return st.binary(max_size=min(max_len, 12))
        case wire.Ints():
            return st.lists(st.integers(0, wire.INT32_MAX), max_size=8).map(column)
        case wire.Floats(low, high, _):
            return st.lists(st.floats(low, high, width=32), max_size=8).map(floats)
        case wire.Maybe(item):
            return st.none() | values(item)
        case wire.Many(item, _):
            return st.lists(values(item), max_size=3)
        case wire.Nested(cls):
            return records(cls)
    raise AssertionError(f"no strategy for {kind}")


def is_consistent(record: Record) -> bool:
    try:
        record.check()
    except ProtocolError:
        return False
    return True


def records(cls: type[Record]) -> st.SearchStrategy[Any]:
    drawn = {name: values(kind) for name, kind in cls.KINDS}
    if cls is Hello:
        drawn |= {"protocol_version": st.just(PROTOCOL_VERSION), "role": st.sampled_from(list(Role))}
    if cls is Submit:
        drawn |= {"prompt": st.just(column([1])), "generated": st.just([])}
    if cls is Admit:
        drawn |= {
            "tokens": st.just(column([5, 6])),
            "num_prompt_tokens": st.integers(1, 2),
            "num_computed_tokens": st.integers(0, 1),
        }
    if cls is Shaping:
        drawn |= {
            "biases": st.just(floats([-1.5, 2])),
            "bias_token_ids": st.just(column([3, 9])),
            "bad_words": st.lists(
                st.lists(st.integers(0, 9), min_size=1, max_size=3).map(column), max_size=2
            ),
        }
    if cls is Logprobs:
        drawn |= {name: st.just(column([1, 1])) for name in ("places", "ranks")}
        drawn |= {
            "counts": st.just(column([2, 1])),
            "token_ids": st.just(column([7, 4, 6])),
            "values": st.lists(st.floats(-1e5, 0.0, width=32), min_size=3, max_size=3).map(floats),
        }
    if cls is StepResult:
        drawn |= {"tokens": st.just(column([1, 2]))}
    if cls in (Finished, Cached):
        drawn |= {"row": st.integers(0, 1)}
    if cls is Tokens:
        drawn |= {name: st.just(column([1, 2])) for name in ("request_ids", "outputs", "tokens")}
        drawn |= {"finished": st.lists(records(Finished)), "cached": st.lists(records(Cached))}
    if cls is StepPlan:
        drawn |= {
            "counts": st.just(column()),
            "page_slots": st.just(column()),
            "new_pages": st.just(column()),
        }
    return st.builds(cls, **drawn).filter(is_consistent)


any_message = st.sampled_from(sorted(BY_TAG)).flatmap(lambda tag: records(BY_TAG[tag]))


@given(any_message)
def test_a_message_survives_the_wire(message: Message) -> None:
    back = decode(encode(message))
    assert type(back) is type(message)
    assert back == message


@given(st.binary(max_size=200))
def test_garbage_raises_only_the_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@given(any_message, st.data())
@settings(max_examples=300)
def test_a_damaged_message_is_read_or_refused(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        back = decode(bytes(damaged))
    except ProtocolError:
        return
    assert decode(encode(back)) == back


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary()
)
json_like = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(st.sampled_from(sorted(BY_TAG)), st.lists(json_like, max_size=8))
@settings(max_examples=300)
def test_fields_of_any_other_type_are_refused(tag: int, raw: list[Any]) -> None:
    try:
        message = decode(msgpack.packb([tag, *raw]))
    except ProtocolError:
        return
    assert isinstance(message, BY_TAG[tag])
    for field, value in zip(fields(message), raw, strict=True):  # type: ignore[arg-type]
        assert value is not None, field.name


ZERO, ONE = b"\0\0\0\0", b"\1\0\0\0"
FLOAT, NAN = b"\0\0\x80\x3f", b"\0\0\x80\x3f\0\0\xc0\x7f"
SAMPLING = [0.0, 0, 1.0, 0, 0, 0, None]
SHAPING = [0.0, 1.0, 0.0, 0.0, b"", b"", b"", [], 0, b""]


def shaped(field: int, value: Any) -> list[Any]:
    """Sampling on the wire with one value of its shaping changed."""
    return [*SAMPLING[:-1], [*SHAPING[:field], value, *SHAPING[field + 1 :]]]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ([], "begins with its tag"),
        ([True, 1], "begins with its tag"),
        ([999], "unknown message tag 999"),
        ([1, PROTOCOL_VERSION + 1, "worker", 0], "start all processes from one installation"),
        ([1, PROTOCOL_VERSION, "admin", 0], "unknown role"),
        ([1, PROTOCOL_VERSION, "worker"], "expected 3 fields"),
        ([11, b"\xff\xff\xff\xff", b""], "negative"),
        ([11, b"\x01\x00", b""], "int32"),
        ([11, b"\x00" * 4 * 70000, b""], "at most 65536"),
        ([31, "x" * 5000], "at most 4096 characters"),
        ([11, b"\1\0\0\0", b"\0\0\0\0" * 2], "columns of Cancel"),
        ([20, 0, 0, b"", b"\1\0\0\0", b"", b"", [], b"", b"", b""], "counts of a plan"),
        ([20, 0, 0, b"", b"", b"\1\0\0\0", b"", [], b"", b"", b""], "differ in length"),
        ([20, 0, 0, b"", b"", b"", b"", [], b"", b"", b"\1\0\0\0"], "one a masked row"),
        ([20, 0, 0, b"", b"", b"", b"", [], b"", b"\0\0\0\0" * 2, b"\1" * 5], "equally long"),
        ([14, b"\1\0\0\0", b"", b"\1\0\0\0", [[1, 1, 0, 0.0, 0.0, 0.0]], [], None, []], "beyond the columns"),
        ([10, 1, b"", [], SAMPLING, 5, b"", 1, 0, 0.0, "", False, ""], "at least one prompt token"),
        (
            [10, 1, b"\1\0\0\0", [], [float("nan"), *SAMPLING[1:]], 5, b"", 1, 0, 0.0, "", False, ""],
            "expected a number",
        ),
        ([10, 1, b"\1\0\0\0", [b""], SAMPLING, 5, b"", 2, 0, 0.0, "", False, ""], "generated columns"),
        (
            [10, 1, b"\1\0\0\0", [], shaped(1, 0.0), 5, b"", 1, 0, 0.0, "", False, ""],
            r"number of \[0.01, 100.0\]",
        ),
        (
            [10, 1, b"\1\0\0\0", [], shaped(5, FLOAT), 5, b"", 1, 0, 0.0, "", False, ""],
            "1 biases for 0 tokens",
        ),
        ([10, 1, b"\1\0\0\0", [], shaped(5, NAN), 5, b"", 1, 0, 0.0, "", False, ""], "column of numbers"),
        (
            [10, 1, b"\1\0\0\0", [], shaped(7, [b""]), 5, b"", 1, 0, 0.0, "", False, ""],
            "bad word has no tokens",
        ),
        ([21, 0, 0, b"", 0, 0, 0, [b"\1\0\0\0", b"", b"", b"", b""], []], "differ in length"),
        ([21, 0, 0, b"", 0, 0, 0, [ZERO, ZERO, ZERO, b"", b""], []], "place without"),
        ([21, 0, 0, b"", 0, 0, 0, [ZERO, ONE, ONE, b"", b""], []], "than their counts say"),
        ([21, 0, 0, b"", 0, 0, 0, [ZERO, ONE, ONE, ONE, ZERO], []], "beyond those of the step"),
        ([14, b"", b"", b"", [], [], [ZERO, ONE, ONE, ONE, ZERO], []], "beyond the columns"),
    ],
)
def test_a_malformed_message_is_refused_with_its_reason(raw: list[Any], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decode(msgpack.packb(raw))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode(b"\x91" * 100_000)


def test_a_plan_for_256_rows_is_small() -> None:
    rows = column(range(256))
    plan = StepPlan(1, 7, rows, column(), rows[:16], rows[:16], [], column())
    assert len(encode(plan)) < 1300
    admit = Admit(3, column([1, 2, 3]), 3, 0, column([7]), Sampling(0.5, 10, 0.9, 2**62))
    assert decode(
        encode(StepPlan(1, 8, column([3]), column([3]), column(), column(), [admit], column()))
    ).admits == [admit]  # type: ignore[attr-defined]


def test_a_tag_is_given_once_and_only_to_a_class_of_its_vocabulary() -> None:
    with pytest.raises(TypeError, match="Other and Hello share the tag 1"):

        @message(1)
        class Other(Message):
            """Takes the number of `Hello`."""

    with pytest.raises(TypeError, match="Stranger is no Message"):

        @message(1000)
        class Stranger(Tagged):
            """Is of no vocabulary."""

    assert 1000 not in BY_TAG
