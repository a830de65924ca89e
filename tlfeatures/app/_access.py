"""Access to the service: allow-lists of hosts and origins, a token, and headers that restrict browsers."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from tlfeatures.app._metrics import Metrics
from tlfeatures.app._problems import MEDIA_TYPE, Problem

__all__ = ["AccessMiddleware", "AccessPolicy", "is_loopback"]

COOKIE = "tlfeatures_token"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/@?#]+))(?::\d{1,5})?")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def _drop_port(host: str) -> str | None:
    """Return the name in a Host header in lower case; None if the header is malformed."""
    match = _HOST.fullmatch(host)
    return None if match is None else (match[1] or match[2]).lower()


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can connect to an address."""
    if host.lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


@dataclass(frozen=True)
class AccessPolicy:
    """Which hosts a client may address, and the token that it needs.

    Parameters
    ----------
    hosts : frozenset of str
        Names in lower case that may be in the Host header. This stops DNS rebinding: if another site makes its own name
        resolve to this machine, the Host header contains that name.
    any_address : bool, default=False
        Whether any IP address may be in the Host header too. This is safe, because DNS rebinding needs a host name.
    token : str or None, default=None
        None means that no token is needed.

    Examples
    --------
    >>> policy = AccessPolicy.for_address("127.0.0.1")
    >>> policy.token is None, policy.allows_host("localhost:8000"), policy.allows_host("evil.example:8000")
    (True, True, False)
    >>> AccessPolicy.for_address("0.0.0.0", ["lab.example"]).token is None
    False
    """

    hosts: frozenset[str] = frozenset(_LOOPBACK)
    any_address: bool = False
    token: str | None = None

    @classmethod
    def for_address(cls, host: str, names: Iterable[str] = ()) -> AccessPolicy:
        """Make the policy for an address to bind: a random token unless only this machine can connect to it.

        Parameters
        ----------
        host : str
            Address or name to bind.
        names : iterable of str, optional
            Further names by which clients address the service; a port is ignored.
        """
        allowed = frozenset({*_LOOPBACK, host.lower(), *(_drop_port(name) or name.lower() for name in names)})
        if is_loopback(host):
            return cls(allowed)
        return cls(allowed, any_address=True, token=secrets.token_urlsafe(24))

    def allows_host(self, header: str) -> bool:
        """Return whether a Host header names this service.

        Parameters
        ----------
        header : str
            Value of the header, with or without a port.

        Returns
        -------
        bool
            Whether the request is answered.
        """
        name = _drop_port(header)
        if name is None:
            return False
        if name in self.hosts:
            return True
        with contextlib.suppress(ValueError):
            return self.any_address and bool(ipaddress.ip_address(name))
        return False

    def allows_token(self, token: str | None) -> bool:
        """Return whether a token is the right one, or none is needed.

        Parameters
        ----------
        token : str or None
            Token of the request, if it has one.

        Returns
        -------
        bool
            Whether the request is answered.
        """
        if self.token is None:
            return True
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


class AccessMiddleware:
    """Refuse requests that the policy does not allow, and add to each response headers that restrict browsers.

    Parameters
    ----------
    app : ASGI application
    policy : AccessPolicy
    metrics : Metrics
    max_requests : int
        Largest number of requests that are processed at the same time; further requests get status 503.
    """

    def __init__(self, app: Any, policy: AccessPolicy, metrics: Metrics, max_requests: int) -> None:
        self.app, self.policy, self.metrics, self.max_requests = app, policy, metrics, max_requests
        self.active = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # web sockets are not used
            return
        status, start = 500, time.perf_counter()

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                new = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in new if pair[0] not in present)]
            await send(message)

        self.active += 1
        try:
            answer = self._check(scope)
            if answer is None:
                await self.app(scope, receive, send_with_headers)
            else:
                await _respond(send_with_headers, *answer)
        finally:
            self.active -= 1
            self.metrics.add_request(scope["path"], status, time.perf_counter() - start)

    def _check(self, scope: Any) -> tuple[int, dict[str, str], bytes] | None:
        """Return status, headers and body of the answer to a request that is not passed on."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_origin(scope, headers)
            if scope["path"] == "/healthz":
                return None
            if self.active > self.max_requests:
                raise Problem(
                    503, "too-many-requests", "Too many requests at the same time.", {"Retry-After": "1"}
                )
            return self._check_token(scope, headers)
        except Problem as problem:
            return problem.status, {"content-type": MEDIA_TYPE, **problem.headers}, problem.encode()

    def _check_origin(self, scope: Any, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if not self.policy.allows_host(host):
            raise Problem(
                421,
                "unknown-host",
                f"The Host header {host[:100]!r} is not an allowed name of this service. To allow it, start the "
                "service with --allow-host NAME.",
            )
        origin = headers.get("origin")
        is_same = origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
        opens_page = mode == "navigate" and scope["method"] == "GET" and scope["path"] == "/"
        if not is_same or (site not in ("none", "same-origin") and not opens_page):
            raise Problem(
                403, "cross-origin", "The request comes from a page of another site, which is not allowed."
            )

    def _check_token(self, scope: Any, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        if self.policy.token is None:
            return None
        if scope["path"] == "/" and scope["method"] == "GET":  # the address that is printed at the start
            (token,) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [None])[:1]
            if token is not None and self.policy.allows_token(token):
                cookie = f"{COOKIE}={self.policy.token}; Path=/; HttpOnly; SameSite=Strict"
                return 303, {"location": "/", "set-cookie": cookie}, b""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = _read_cookie(headers.get("cookie", ""))
        if not self.policy.allows_token(token):
            raise Problem(
                401,
                "token-required",
                "Pass the token that was printed when the service started: `Authorization: Bearer TOKEN`.",
                {"WWW-Authenticate": "Bearer"},
            )
        return None


def _read_cookie(header: str) -> str | None:
    """Return the token in a Cookie header; cookies of other services on this host may have any form."""
    for cookie in header.split(";"):
        name, _, value = cookie.partition("=")
        if name.strip() == COOKIE:
            return value.strip()
    return None


async def _respond(send: Any, status: int, headers: dict[str, str], body: bytes) -> None:
    headers = {**headers, "content-length": str(len(body))}
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
