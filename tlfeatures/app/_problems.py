"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

__all__ = ["MEDIA_TYPE", "Problem"]

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An error that is answered as a problem detail.

    Parameters
    ----------
    status : int
        HTTP status.
    name : str
        Name of the kind of problem, such as "queue-full". It is the last part of the type, a URN.
    detail : str
        What happened, and how to fix it.
    headers : dict, optional
        Additional headers, such as Retry-After.
    """

    def __init__(self, status: int, name: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.name, self.detail = status, name, detail
        self.headers = dict(headers or {})

    @classmethod
    def unreadable(cls, reason: str, status: int = 422) -> Problem:
        """Make the problem of an image that cannot be read."""
        return cls(status, "unreadable-image", f"The image cannot be read: {reason}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the members of the problem detail: type, title, status and detail."""
        return {
            "type": f"urn:tlfeatures:problem:{self.name}",
            "title": self.name.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
        }

    def encode(self) -> bytes:
        """Return the body of the answer."""
        return json.dumps(self.to_dict()).encode()

    @classmethod
    def of_status(cls, status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> Problem:
        """Make a problem from an HTTP status alone, such as 404."""
        phrase = HTTPStatus(status).phrase
        return cls(status, phrase.lower().replace(" ", "-"), detail or f"{phrase}.", headers)
