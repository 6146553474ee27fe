"""One output's way from tokens to the text that may be shown: detokenized, and cut at a stop string.

Knows tokens as they come; nothing of the engine, or why it ended.
"""

from gllm.frontend.detokenizer import Detokenizer
from gllm.frontend.stops import StopMatcher
from gllm.frontend.text_output import TextDelta


class TextReader:
    """cuts_lead: white space before the text is not shown. shows_stop: the stop string that ends it is."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopMatcher | None,
        *,
        cuts_lead: bool = False,
        shows_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._cuts_lead = cuts_lead
        self._shows_stop = shows_stop
        self._num_unwatched = min_tokens  # tokens to come in whose text a stop string ends nothing

    def read(self, token_ids: list[int], last: bool = False) -> TextDelta:
        """The delta of `token_ids`; it has a finish reason where a stop string was met in it."""
        stops = self._stops
        if stops is None:
            text = self._detokenizer.feed(token_ids)
            return TextDelta(self._cut(text + self._detokenizer.finish() if last else text), token_ids)
        shown = ""
        # Token by token, so that the count does not depend on how many came at once.
        for position, token in enumerate(token_ids, 1):
            text = self._cut(self._detokenizer.feed((token,)))
            if self._num_unwatched:
                self._num_unwatched -= 1
                shown += text
                continue
            text, stop = stops.feed(text)
            shown += text
            if stop is not None:
                return TextDelta(shown + self._stop_shown(stop), token_ids[:position], "stop", stop)
        if last:
            text, stop = stops.feed(self._cut(self._detokenizer.finish()))
            shown += text
            if stop is not None:
                return TextDelta(shown + self._stop_shown(stop), token_ids, "stop", stop)
            shown += stops.finish()
        return TextDelta(shown, token_ids)

    def _stop_shown(self, stop: str) -> str:
        return stop if self._shows_stop else ""

    def _cut(self, text: str) -> str:
        """`text` without the white space before the first that is something else."""
        if self._cuts_lead:
            text = text.lstrip()
            self._cuts_lead = not text
        return text
