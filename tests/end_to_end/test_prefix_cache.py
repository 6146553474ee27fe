"""A chat over the server finds its own history in the prefix cache, and answers the same without it."""

from typing import Any

import httpx
from served import MODEL, serve

PAGE_SIZE = 16
TURNS = [
    "Hello! My name is Christopher.",
    "What is 23 + 45?",
    "and plus 3?",
    "Spell banana",
    "And backwards?",
    "Count from 5 to 12",
    "What is my name?",
    "Tell me a story about a dragon",
]


def talk(url: str) -> list[dict[str, Any]]:
    """The answers of a greedy chat of eight turns."""
    messages: list[dict[str, str]] = []
    answers = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for question in TURNS:
            messages.append({"role": "user", "content": question})
            body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 150}
            answer = client.post("/v1/chat/completions", json=body).json()
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
            answers.append(answer)
    return answers


def test_a_chat_of_8_turns_computes_its_history_once() -> None:
    with serve() as served:
        cached = talk(served.url)
        stats = served.stats()
    with serve("--no-enable-prefix-caching") as served:
        computed = talk(served.url)
        assert served.stats().num_prefix_hit_tokens == 0
    texts = [[answer["choices"][0]["message"]["content"] for answer in chat] for chat in (cached, computed)]
    assert texts[0] == texts[1]
    assert stats.num_prefix_hit_tokens > 0
    history = 0  # tokens whose keys and values the turn before left behind
    for turn, answer in enumerate(cached):
        usage = answer["usage"]
        found = usage["prompt_tokens_details"]["cached_tokens"]
        assert found == history // PAGE_SIZE * PAGE_SIZE, f"turn {turn + 1}"
        # The last generated token is the end of the turn; it is sampled, but never computed.
        history = usage["prompt_tokens"] + usage["completion_tokens"] - 1
    assert all(answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0 for answer in computed)
