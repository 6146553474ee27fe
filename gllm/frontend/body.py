"""A request's body: read within limits, one JSON object, nothing in it that could hurt later.

Knows bytes, time and JSON; nothing of the fields.
"""

import asyncio
import json
import re
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from gllm.frontend.errors import ApiError
from gllm.frontend.json_depth import MAX_DEPTH, is_too_deep

READ_TIMEOUT_S = 30.0
MAX_VALUES = 2_000_000  # more take most of a second to read, in which nobody else is answered
LARGE_BYTES = 1 << 20  # read in a thread: others are answered between its stages
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The JSON object in the body; raises `ApiError`."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise _invalid(
            f"the body must be JSON with the header Content-Type: application/json, got {content_type!r:.80}"
        )
    body = await _read(request, max_bytes)
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(parse_object, body)
    return parse_object(body)


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body; never more than `max_bytes` of it are held, whatever the headers say."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {READ_TIMEOUT_S:g} s: send it at once",
        ) from None
    except ClientDisconnect:
        raise _invalid("the body ended early") from None  # nobody reads this answer
    return b"".join(parts)


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that `body` spells; raises `ApiError`."""
    # Commas in texts count, too: a text as long has far fewer.
    if len(body) > 2 * MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise _invalid(f"the body has more than {MAX_VALUES} values: send less at once")
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise _invalid(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except UnicodeDecodeError:
        raise _invalid("the body is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise _invalid("the body has a number that is too long, or is nested too deeply") from None
    if not isinstance(value, dict):
        raise _invalid("the body must be a JSON object with the fields of the request")
    # Both looks cost time, and nearly every body shows at once that it needs neither.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and is_too_deep(value):
        raise _invalid(f"the body is nested deeper than {MAX_DEPTH} levels: flatten it")
    if SURROGATE_ESCAPE.search(body) and not _is_text(value):
        raise _invalid("the body has half of a surrogate pair, which is no character: send whole characters")
    return value


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(written: str) -> float:
    number = float(written)
    if number in (float("inf"), float("-inf")):
        raise _invalid(f"the number {written:.80} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise _invalid(f"{name} is not JSON: give a finite number")


def _invalid(sentence: str) -> ApiError:
    return ApiError(400, sentence, code="invalid_json")


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body is larger than {max_bytes} bytes: send less, or raise --max-body-bytes")
