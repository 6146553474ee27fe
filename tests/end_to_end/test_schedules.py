"""The pipeline schedule changes when work is done, and no token of it."""

from typing import Any

import httpx
from served import MODEL, serve

QUESTIONS = ["Count from 5 to 30", "Tell me a story about a dragon", "What is 23 + 45?", "Spell banana"]


def answers(url: str) -> list[Any]:
    with httpx.Client(base_url=url, timeout=60) as client:
        chats = [
            {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0}
            for question in QUESTIONS
        ]
        return [client.post("/v1/chat/completions", json=chat).json()["choices"] for chat in chats]


def test_greedy_text_is_equal_with_one_plan_in_flight_and_with_two() -> None:
    with serve("--pipe-schedule") as piped, serve("--no-pipe-schedule") as serial:
        texts = answers(piped.url)
        assert texts == answers(serial.url)
    assert all(len(choices[0]["message"]["content"]) > 10 for choices in texts)
