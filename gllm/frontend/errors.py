"""What goes wrong, in OpenAI's error form: {"error": {"message", "type", "param", "code"}}.

Messages are our own sentences: never an exception's text from a library, a traceback or a path.
"""

import json
import logging
from collections.abc import Mapping

from gllm.frontend.engine import EngineLost, Refused
from gllm.frontend.generation import GenerationFailed
from gllm.frontend.params import ParameterError
from gllm.protocol.messages import RejectCode

log = logging.getLogger("gllm")

MAX_MESSAGE = 1000  # characters: what a client sent wrongly must not come back a thousandfold
MAX_PARAM = 200
RETRY = {"retry-after": "1"}
INVALID = "invalid_request_error"
SERVER = "server_error"


class ApiError(Exception):
    """An answer that is not the one hoped for."""

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON of this error."""
        error = {
            "message": self.sentence[:MAX_MESSAGE],
            "type": self.kind,
            "param": self.param if self.param is None else self.param[:MAX_PARAM],
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()


def shutting_down() -> ApiError:
    return ApiError(
        503,
        "This server is shutting down and takes no new requests: send it to another one.",
        kind=SERVER,
        code="shutting_down",
        headers=RETRY,
    )


def api_error(error: Exception) -> ApiError:
    """How `error` is told to a client. What nobody expected goes to the log, with its traceback."""
    match error:
        case ApiError():
            return error
        case ParameterError():
            return ApiError(400, str(error), param=error.param, code=error.code)
        case Refused(code=RejectCode.OVERLOADED):
            return ApiError(503, error.sentence, kind=SERVER, code="overloaded", headers=RETRY)
        case Refused(code=RejectCode.TIMEOUT):
            return ApiError(504, error.sentence, kind=SERVER, code="timeout")
        case Refused():
            return ApiError(400, error.sentence)
        case EngineLost():
            log.warning("a request failed: %s", error)
            return ApiError(
                503, "The engine is not available now: try again.", kind=SERVER, code="loading", headers=RETRY
            )
        case GenerationFailed():
            log.warning("a request failed: %s", error)
            sentence = "The engine failed while it worked on this request."
        case _:
            log.error("a request failed", exc_info=error)
            sentence = "This server failed while it worked on this request; its log says why."
    return ApiError(500, sentence, kind=SERVER, code="internal_error")
