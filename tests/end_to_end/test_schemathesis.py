"""Requests made of the served OpenAPI document, good and bad, against the real server: nothing breaks it, and
what it answers is what the document says."""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from served import Served, serve

EXAMPLES_EACH = 15  # of good and of bad requests for one operation
MOST_TOKENS = 3
KEY, ADMIN_KEY = "sk-one", "sk-operator"
MOST_OPTIONAL = 4
NEEDED = {"model", "prompt", "messages", "input", "tokens"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve("--api-key", KEY, "--admin-api-key", ADMIN_KEY) as served:
        yield served


# A good request must not run to the end of the context.
LENGTHS = {
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}


@pytest.mark.timeout(120)
def test_no_request_breaks_the_server_or_gets_what_the_document_does_not_say(server: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=bearer(KEY))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 10
    statuses: dict[str, set[int]] = {}
    for operation in operations:
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            if operation.body or mode is GenerationMode.POSITIVE:
                check_all(operation.as_strategy(generation_mode=mode), mode, statuses)
    for label, seen in statuses.items():
        assert not {status for status in seen if status >= 500}, label
    generating = [seen for label, seen in statuses.items() if "completions" in label]
    assert all({200, 400} <= seen for seen in generating), statuses
    answer = {"model": "demo/model", "prompt": "hello", "max_tokens": 2}
    response = httpx.post(f"{server.url}/v1/completions", json=answer, headers=bearer(KEY))
    assert response.status_code == 200


def some_fields(body: dict[str, Any], number: int) -> dict[str, Any]:
    """`body` with some of its optional fields: of all that there are, some always exclude each other."""
    optional = sorted(body.keys() - NEEDED)
    kept = {name for index, name in enumerate(optional) if (index + number) % len(body) < MOST_OPTIONAL}
    return {name: value for name, value in body.items() if name in NEEDED | kept}


def check_all(
    strategy: st.SearchStrategy[schemathesis.Case], mode: GenerationMode, statuses: dict[str, set[int]]
) -> None:
    numbers = itertools.count()

    @seed(1)
    @settings(
        max_examples=EXAMPLES_EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def check(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body = some_fields(case.body, next(numbers))
            if (length := LENGTHS.get(case.operation.path)) is not None:
                case.body[length] = MOST_TOKENS
        # Without the right key each must be refused, which the checks look at by themselves.
        security = case.operation.definition.raw.get("security", [{}])
        case.headers.update(bearer(ADMIN_KEY if "admin" in security[0] else KEY))
        response = case.call(timeout=30)
        statuses.setdefault(case.operation.label, set()).add(response.status_code)
        # What the document allows may still be too long, or name a tool that is not there.
        case.validate_response(response, excluded_checks=[schemathesis.checks.positive_data_acceptance])

    check()
