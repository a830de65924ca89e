"""Images in the body of a request: parts of a form, or base64 in JSON. Nothing is written to disk."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tlfeatures.app._limits import Limits
from tlfeatures.app._problems import Problem

__all__ = ["MemoryBudget", "Upload", "check_length", "read_body", "read_uploads"]

_MAX_NAME = 255  # characters
_MAX_DIGITS = 18  # of the length of a body
_EXPECTED = (
    "Send multipart/form-data with one part for each file, or application/json with "
    '{"images": [{"name": "a.jpg", "data": "BASE64"}]}.'
)


@dataclass(frozen=True)
class Upload:
    """An image of a request.

    Attributes
    ----------
    name : str
        Name that the client gave it, which is only repeated in the answer.
    data : bytes
    problem : Problem or None
        Why the image is not processed.
    """

    name: str
    data: bytes = b""
    problem: Problem | None = None


class MemoryBudget:
    """Bytes of the bodies of all requests that are being answered."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0

    def add(self, n: int) -> None:
        """Reserve bytes.

        Raises
        ------
        Problem
            If there are not enough left.
        """
        if self.used + n > self.total:
            detail = "The requests in progress use all memory for uploads. Repeat the request later."
            raise Problem(503, "out-of-memory", detail, {"Retry-After": "2"})
        self.used += n

    def release(self, n: int) -> None:
        """Return bytes that were reserved."""
        self.used -= n


async def read_body(request: Any, limits: Limits, budget: MemoryBudget) -> bytes:
    """Read the body of a request within the limits; the caller releases ``len(body)`` bytes of the budget.

    Raises
    ------
    Problem
        If the body is too large, or does not arrive completely in time.
    """
    from starlette.requests import ClientDisconnect

    size = 0
    chunks = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                _check_size(size, limits)
                budget.add(len(chunk))
                chunks.append(chunk)
        return b"".join(chunks)
    except BaseException as error:
        budget.release(sum(map(len, chunks)))
        if isinstance(error, TimeoutError):
            raise Problem(
                408,
                "body-timeout",
                f"The body of the request did not arrive within {limits.body_seconds:g} s.",
                {"Connection": "close"},
            ) from None
        if isinstance(error, ClientDisconnect):
            detail = "The connection was closed before the whole body arrived."
            raise Problem(400, "incomplete-body", detail) from None
        raise


async def read_uploads(request: Any, body: bytes, limits: Limits) -> list[Upload]:
    """Read the images of a request, which were sent as a form or as JSON.

    Raises
    ------
    Problem
        If the body is malformed, or has no images or too many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = await _read_form(request.headers, body, limits)
    elif kind == "application/json":
        is_large = len(body) > 1 << 20
        uploads = await asyncio.to_thread(_read_json, body, limits) if is_large else _read_json(body, limits)
    else:
        raise Problem(415, "unsupported-media-type", f"The content type is {kind[:100]!r}. {_EXPECTED}")
    if not uploads:
        raise Problem(422, "no-images", f"The request has no images. {_EXPECTED}")
    return uploads


def check_length(headers: Any, limits: Limits) -> None:
    """Raise a problem if the announced length of a body is too large."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdecimal():
        _check_size(int(length) if len(length) <= _MAX_DIGITS else 10**_MAX_DIGITS, limits)


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.request_bytes:
        raise Problem(
            413,
            "request-too-large",
            f"The request has more than {limits.request_bytes:,} bytes. Send fewer or smaller images.",
            {"Connection": "close"},
        )


async def _read_form(headers: Any, body: bytes, limits: Limits) -> list[Upload]:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class MemoryParser(MultiPartParser):
        spool_max_size = limits.request_bytes + 1  # parts stay in memory

    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        parser = MemoryParser(headers, stream(), max_files=limits.images, max_fields=limits.images)  # type: ignore[arg-type]
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(limits) from None
        raise Problem(400, "malformed-form", f"The form is malformed: {error.message} {_EXPECTED}") from None
    except Exception as error:  # a malformed header of a part
        raise Problem(
            400, "malformed-form", f"The form is malformed ({type(error).__name__}). {_EXPECTED}"
        ) from None
    parts = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    return [_make_upload(part.filename or "", part.file.read(), limits) for part in parts]


def _read_json(body: bytes, limits: Limits) -> list[Upload]:
    try:
        content = json.loads(body)
        images = content["images"]
        if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Problem(400, "malformed-json", f"The JSON is malformed. {_EXPECTED}") from None
    if len(images) > limits.images:
        raise _too_many(limits)
    uploads = []
    for image in images:
        name, data = image.get("name") or "", image.get("data")
        try:
            decoded = base64.b64decode(data, validate=True)
        except (binascii.Error, TypeError, ValueError):
            problem = Problem(422, "invalid-base64", "`data` must be the file in base64, without line ends.")
            uploads.append(Upload(_clean(str(name)), problem=problem))
            continue
        uploads.append(_make_upload(str(name), decoded, limits))
    return uploads


def _too_many(limits: Limits) -> Problem:
    detail = f"The request has more than {limits.images} images. Send several requests."
    return Problem(413, "too-many-images", detail)


def _make_upload(name: str, data: bytes, limits: Limits) -> Upload:
    name = _clean(name)
    if len(data) <= limits.image_bytes:
        return Upload(name, data)
    detail = f"The file has {len(data):,} bytes; at most {limits.image_bytes:,} are read."
    return Upload(name, problem=Problem(413, "image-too-large", detail))


def _clean(name: str) -> str:
    """Shorten a name, and replace what cannot be encoded."""
    return name[:_MAX_NAME].encode("utf-8", "replace").decode("utf-8")
