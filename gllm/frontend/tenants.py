"""Who calls: API keys, and what each may use in a minute.

A key is known by its hash alone. A budget refills steadily and holds a minute's worth at most. A request is
let in while its key's budgets are not used up; prompts are charged when they are submitted and answers when
they end, so that one request can overdraw, and the next ones wait that out. Every process counts for
itself, with its share of the limits. Knows nothing of routes.
"""

import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from gllm.config.keys import ApiKey
from gllm.config.schema import LimitsConfig
from gllm.frontend.errors import ApiError

ANONYMOUS = "anonymous"
ADMIN = "admin"
MINUTE_S = 60.0


class Budget:
    """`most` units a minute."""

    def __init__(self, most: int, now: float) -> None:
        self.most = most
        self._level = float(most)
        self._at = now

    def level(self, now: float) -> float:
        """What is left; negative where it is overdrawn."""
        self._level = min(self._level + (now - self._at) * self.most / MINUTE_S, float(self.most))
        self._at = now
        return self._level

    def spend(self, units: int, now: float) -> None:
        self._level = self.level(now) - units

    def seconds_until(self, level: float, now: float) -> float:
        return max(level - self.level(now), 0.0) * MINUTE_S / self.most


@dataclass(slots=True, eq=False)
class Tenant:
    """One key's name and use. A budget or bound that is None does not limit."""

    name: str
    requests: Budget | None = None
    tokens: Budget | None = None
    max_concurrency: int | None = None
    num_open: int = 0

    def enter(self, now: float) -> None:
        """One more request of it; raises `ApiError` (429) if it may not be."""
        if self.max_concurrency is not None and self.num_open >= self.max_concurrency:
            what = f"{self.num_open} of your requests are open, and at most {self.max_concurrency} may be"
            raise self._refusal(what, 1.0, now)
        if self.requests is not None and self.requests.level(now) < 1:
            what = f"your {self.requests.most} requests a minute are used up"
            raise self._refusal(what, self.requests.seconds_until(1, now), now)
        if self.tokens is not None and self.tokens.level(now) <= 0:
            what = f"your {self.tokens.most} tokens a minute are used up"
            raise self._refusal(what, self.tokens.seconds_until(1, now), now)
        if self.requests is not None:
            self.requests.spend(1, now)
        self.num_open += 1

    def leave(self) -> None:
        """A request that entered is answered."""
        self.num_open -= 1

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's x-ratelimit-* of the budgets that there are."""
        found = {}
        for name, budget in (("requests", self.requests), ("tokens", self.tokens)):
            if budget is not None:
                found[f"x-ratelimit-limit-{name}"] = str(budget.most)
                found[f"x-ratelimit-remaining-{name}"] = str(max(int(budget.level(now)), 0))
                found[f"x-ratelimit-reset-{name}"] = f"{budget.seconds_until(budget.most, now):.3f}s"
        return found

    def _refusal(self, what: str, seconds: float, now: float) -> ApiError:
        wait = max(int(seconds) + (seconds % 1 > 0), 1)
        return ApiError(
            429,
            f"Rate limit reached: {what}. Please try again in {wait} s.",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": str(wait)} | self.headers(now),
        )


@dataclass(slots=True)
class Tenants:
    """All keys of a deployment."""

    _keys: list[tuple[bytes, Tenant]] = field(default_factory=list)
    _admins: list[tuple[bytes, Tenant]] = field(default_factory=list)
    _anonymous: Tenant = field(default_factory=lambda: Tenant(ANONYMOUS))

    @classmethod
    def of(
        cls,
        keys: Sequence[ApiKey],
        admin_keys: Sequence[ApiKey],
        limits: LimitsConfig,
        num_processes: int = 1,
    ) -> "Tenants":
        """num_processes: that share the limits."""
        now = time.monotonic()

        def share(own: int | None, common: int | None) -> int | None:
            most = common if own is None else own
            return None if most is None else -(-most // num_processes)

        def tenant(key: ApiKey) -> Tenant:
            requests = share(key.requests_per_minute, limits.requests_per_minute)
            tokens = share(key.tokens_per_minute, limits.tokens_per_minute)
            return Tenant(
                key.name,
                None if requests is None else Budget(requests, now),
                None if tokens is None else Budget(tokens, now),
                share(key.max_concurrency, limits.max_concurrency),
            )

        admins = [(bytes.fromhex(key.digest), Tenant(f"{ADMIN}:{key.name}")) for key in admin_keys]
        return cls(
            [(bytes.fromhex(key.digest), tenant(key)) for key in keys],
            admins,
            tenant(ApiKey(name=ANONYMOUS, digest="")),
        )

    def caller(self, headers: Mapping[str, str]) -> Tenant:
        """Who has the key that the request carries; raises `ApiError` (401)."""
        found = _matching(_given(headers), [*self._keys, *self._admins])
        if found is not None:
            return found
        if not self._keys:
            return self._anonymous
        raise ApiError(
            401,
            "This server needs an API key: send a valid one as Authorization: Bearer KEY.",
            kind="authentication_error",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )

    def admin(self, headers: Mapping[str, str]) -> Tenant:
        """Who has the admin key that the request carries; raises `ApiError` (403)."""
        found = _matching(_given(headers), self._admins)
        if found is None:
            way = "send it" if self._admins else "start the server with --admin-api-key, and send it"
            raise ApiError(
                403,
                f"This route is for operators and needs the admin key: {way} as Authorization: Bearer KEY.",
                kind="permission_error",
            )
        return found

    def spend(self, name: str, num_tokens: int) -> None:
        """Charge tokens to the key of that name."""
        now = time.monotonic()
        for tenant in (self._anonymous, *(tenant for _, tenant in self._keys)):
            if tenant.name == name and tenant.tokens is not None:
                tenant.tokens.spend(num_tokens, now)


def _given(headers: Mapping[str, str]) -> bytes:
    """The hash of the key in a request; Anthropic's clients send it as x-api-key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    return sha256(key.strip().encode("latin-1", "replace")).digest()


def _matching(given: bytes, keys: Sequence[tuple[bytes, Tenant]]) -> Tenant | None:
    """Looks at all of them, for the same time whichever it is."""
    found = None
    for digest, tenant in keys:
        if hmac.compare_digest(digest, given):
            found = tenant
    return found
