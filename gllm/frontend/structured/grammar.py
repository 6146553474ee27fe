"""Grammars by llguidance: what a caller wishes becomes a matcher, and a matcher gives masks.

    wish  --compile-->  Grammar  --constraint-->  Constraint of one request: a matcher for each output

Both take time and neither holds Python's lock meanwhile. Compiling has a thread here, of its own so that
a grammar that takes long holds up no answer that is being written; who asks for a mask decides where it is
computed, by how long those of its grammar took. The engine's own limits bound both. Knows nothing of
requests' bodies or of the scheduler.
"""

import asyncio
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from gllm.frontend.parameter_error import ParameterError
from gllm.frontend.structured.schema import check_schema
from gllm.frontend.structured.vocabulary import engine_tokenizer
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tokenizer import Tokenizer
from gllm.protocol.messages import mask_bytes

MAX_BYTES = 1 << 16  # of a schema, an expression, a grammar, all choices
COMPILE_TIMEOUT_S = 5.0
MAX_KEPT = 32  # compiled grammars
PACE_MASKS = 16  # over so many masks goes the mean of what one takes
# Between the tokens of JSON: a blank, or a new line with its indent. Without a bound, some models
# write nothing but white space for ever.
WHITE_SPACE = r"(\n[ \t]{0,40}| )"
NO_SPACE = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
# What llguidance's dialect of Lark can say beyond a language: how tokens are drawn, and tokens by id.
REFUSED_IN_LARK = {
    "temperature": re.compile(r"\btemperature\s*="),
    "%llguidance": re.compile(r"%llguidance\b"),
    "a token by its id or name (<[...]> or <|...|>)": re.compile(r"<\[|<\|"),
}
EMBEDDED_SCHEMA = re.compile(r"%json\b\s*")


class GrammarTooComplex(ParameterError):
    """The grammar can be read, but what may come next takes too long to find out."""

    def __init__(self, param: str) -> None:
        super().__init__(
            param, f"{param}: the grammar is too complex to be followed: make it smaller or less ambiguous"
        )


class Grammars:
    """Makes grammars for one model; loads what it needs with the first.

    eos_token_ids: what ends an answer, and so may come where the grammar may end.
    vocab_size: of the model, whose logits may have more rows than the tokenizer has tokens.
    """

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._mask_bytes = mask_bytes(vocab_size)
        self._compiling = ThreadPoolExecutor(1, "gllm-grammar")
        self._engine: LLTokenizer | None = None
        self._kept: OrderedDict[tuple[str, str, str], Grammar] = OrderedDict()
        self._lock = threading.Lock()

    async def compile(self, wish: StructuredOutputs) -> "Grammar":
        """The grammar of `wish`; raises `ParameterError` for one that cannot be kept to.

        Its time counts from when it has the thread: the turns of others are not its fault.
        """
        loop = asyncio.get_running_loop()
        begun = loop.create_future()
        future = loop.run_in_executor(
            self._compiling, self._compile, wish, partial(loop.call_soon_threadsafe, _resolve, begun)
        )
        future.add_done_callback(_seen)  # perhaps nobody waits any more
        try:
            await asyncio.wait((future, begun), return_when=asyncio.FIRST_COMPLETED)
            return await asyncio.wait_for(asyncio.shield(future), COMPILE_TIMEOUT_S)
        except TimeoutError:
            raise ParameterError(
                wish.where, f"{wish.where} was not compiled within {COMPILE_TIMEOUT_S:g} s: make it smaller"
            ) from None

    def close(self) -> None:
        """End the thread."""
        self._compiling.shutdown(wait=False, cancel_futures=True)

    def _compile(self, wish: StructuredOutputs, on_begin: Callable[[], object]) -> "Grammar":
        """In the thread. Loading the vocabulary, once, is before the beginning."""
        if not self._eos_token_ids:
            raise ParameterError(
                wish.where, "this model has no token that ends a text, which structured outputs need"
            )
        if self._engine is None:
            self._engine = engine_tokenizer(self._tokenizer, self._eos_token_ids)
        on_begin()
        source = _source(wish)
        key = wish.kind, source, wish.where
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        limits = LLParserLimits(
            max_items_in_row=2000,
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=200_000,
            step_max_items=50_000,
            max_lexer_states=20_000,
            max_grammar_size=200_000,
            verbose_errors=False,
        )
        matcher = LLMatcher(self._engine, source, log_level=0, limits=limits)
        if matcher.is_error():
            raise ParameterError(wish.where, _complaint(wish.where, matcher.get_error()))
        grammar = Grammar(matcher, self._mask_bytes, wish.where)
        with self._lock:
            self._kept[key] = grammar
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return grammar


class Grammar:
    """A compiled grammar, and the mask with which every text of it begins."""

    def __init__(self, matcher: LLMatcher, num_bytes: int, param: str) -> None:
        began = time.thread_time()
        self._first = Matcher(matcher, bytes(num_bytes), param, Pace())
        self.first_mask = self._first.mask()
        self._first.pace.mask_s = time.thread_time() - began

    def matcher(self) -> "Matcher":
        """For one text, which has not begun."""
        return self._first.copy()

    def constraint(self, num_outputs: int) -> "Constraint":
        """For one request."""
        return Constraint([self.matcher() for _ in range(num_outputs)], self.first_mask, self._first.pace)


class Constraint:
    """What the tokens of one request may be. `first_mask`: of the first token of every output."""

    def __init__(self, matchers: "list[Matcher]", first_mask: bytes, pace: "Pace") -> None:
        self.first_mask = first_mask
        self._matchers = matchers
        self._pace = pace

    @property
    def mask_s(self) -> float:
        """How long the next mask may take, by those of all texts of the grammar."""
        return self._pace.mask_s

    def mask_after(self, output: int, token: int) -> bytes:
        """The mask of what follows `token`, the newest of that output; raises `GrammarTooComplex`."""
        return self._matchers[output].advance(token)


class Pace:
    """How long a mask of one grammar takes, as a mean in which the newest weigh most.

    Threads may lose each other's values here, which does no harm.
    """

    __slots__ = ("mask_s",)

    def __init__(self) -> None:
        self.mask_s = 0.0

    def observe(self, seconds: float) -> None:
        self.mask_s += (seconds - self.mask_s) / PACE_MASKS


class Matcher:
    """One text on its way through a grammar. Where it may end, so may the answer; behind its end
    nothing may come but the end of the answer."""

    def __init__(self, matcher: LLMatcher, nothing: bytes, param: str, pace: Pace) -> None:
        """nothing: the mask that allows no token."""
        self.pace = pace
        self._matcher = matcher
        self._nothing = nothing
        self._param = param

    def copy(self) -> "Matcher":
        return Matcher(self._matcher.deep_copy(), self._nothing, self._param, self.pace)

    def advance(self, token: int) -> bytes:
        """Take `token`, which the last mask allowed; the mask of the next one."""
        began = time.thread_time()  # of this thread alone: what others took meanwhile is not the grammar's
        self._matcher.consume_token(token)
        mask = self.mask()
        self.pace.observe(time.thread_time() - began)
        return mask

    def mask(self) -> bytes:
        """Bits as `messages.Mask` has them; rows of the model that are no token are not allowed."""
        num_bytes = len(self._nothing)
        bits = self._matcher.compute_bitmask()[:num_bytes].ljust(num_bytes, b"\0")
        if self._matcher.is_error() or bits == self._nothing:
            raise GrammarTooComplex(self._param)
        return bits


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _seen(future: "asyncio.Future[Grammar]") -> None:
    if not future.cancelled():
        future.exception()


def _source(wish: StructuredOutputs) -> str:
    """The grammar in the engine's form; raises `ParameterError`."""
    match wish.kind:
        case "json" | "json_object":
            return _json_source(wish)
        case "regex":
            assert wish.regex is not None
            return LLMatcher.grammar_from_regex(_bounded(wish.regex, wish.where))
        case "choice":
            assert wish.choice is not None
            texts = [json.dumps(text) for text in wish.choice]
            return LLMatcher.grammar_from_lark("start: " + _bounded(" | ".join(texts), wish.where))
        case _:
            assert wish.grammar is not None
            return _lark(_bounded(wish.grammar, wish.where), wish.where)


def _json_source(wish: StructuredOutputs) -> str:
    schema = wish.schema()
    schema = {} if schema is True else schema  # the same, and the engine wants an object
    try:
        text = _bounded(json.dumps(schema), wish.where)
        check_schema(schema, wish.where)
        spaces: Any = NO_SPACE if wish.disable_any_whitespace else {"whitespace_pattern": WHITE_SPACE}
        return LLMatcher.grammar_from_json_schema(text, overrides=spaces)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(wish.where, f"{wish.where} is no JSON schema that can be read") from None


def _lark(grammar: str, where: str) -> str:
    for what, pattern in REFUSED_IN_LARK.items():
        if pattern.search(grammar):
            raise ParameterError(
                where, f"{where}: a grammar cannot have {what} here: leave it out", "unsupported_parameter"
            )
    for match in EMBEDDED_SCHEMA.finditer(grammar):
        try:
            schema, _ = json.JSONDecoder().raw_decode(grammar, match.end())
        except (ValueError, RecursionError):
            raise ParameterError(where, f"{where}: %json must be followed by a JSON schema") from None
        check_schema(schema, where)
    try:
        return LLMatcher.grammar_from_lark(any_to_lark(grammar).removeprefix("%llguidance {}"))
    except Exception as error:  # the converter's own kinds, and those of Python where it recurses
        raise ParameterError(where, _complaint(where, str(error))) from None


def _bounded(text: str, where: str) -> str:
    num_bytes = len(text.encode(errors="replace"))
    if num_bytes > MAX_BYTES:
        raise ParameterError(where, f"{where} has {num_bytes} bytes, at most {MAX_BYTES} are possible")
    return text


def _complaint(where: str, error: str) -> str:
    """What the engine does not like in a caller's own grammar, in its words but short."""
    lines = [line.strip() for line in error.splitlines() if line.strip(" ^|")]
    told = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "")
    return f"{where} cannot be made a grammar: {told.removeprefix('error: '):.160}"
