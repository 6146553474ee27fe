"""Where in the text of a completion each of its tokens begins.

Knows token ids and how they read; nothing of JSON or of log-probabilities.
"""

from collections.abc import Sequence

from gllm.frontend.detokenizer import Detokenizer
from gllm.frontend.tokenizer import Tokenizer


class TextOffsets:
    """Of one choice, piece by piece, in characters.

    A token that shows nothing begins where the next one does, and one within a character where that begins.
    What a stop string cuts away counts as if it were shown.

    detokenizer: reads the output. in_prompt: the offsets of the prompt's tokens, where the text begins with
    the prompt. begin: where the output's own text begins.
    """

    def __init__(self, detokenizer: Detokenizer, in_prompt: Sequence[int] = (), begin: int = 0) -> None:
        self._detokenizer = detokenizer
        self._in_prompt = in_prompt
        self._offset = begin

    def of(self, token_ids: Sequence[int]) -> list[int]:
        """Those of the next tokens; the first ones are all tokens of the prompt, where it is shown."""
        offsets = list(self._in_prompt)
        self._in_prompt = ()
        for token in token_ids[len(offsets) :]:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.feed((token,)))
        return offsets


def offsets_in_prompt(text: str, token_ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Where in `text`, a prompt as it is shown, its tokens begin.

    A special token shows nothing, unless the text spells it there.
    """
    offsets, offset = [], 0
    special, stream = tokenizer.special_token_ids, tokenizer.detokenizer()
    for token in token_ids:
        offsets.append(offset)
        shown = stream.feed((token,))
        if token in special:
            spelt = tokenizer.bytes_of(token).decode()
            shown = spelt if text.startswith(spelt, offset) else ""
        offset = min(offset + len(shown), len(text))
    return offsets
