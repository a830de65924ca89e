"""Routes of the page that change labels and train the head again."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

from tlfeatures.app._labels import Labels
from tlfeatures.app._problems import Problem
from tlfeatures.app._routes import Service, to_response
from tlfeatures.app._uploads import check_length, read_body

__all__ = ["add_label_routes", "read_change"]

_PAGE = 60  # images


async def read_change(request: Request, service: Service, csrf_token: str) -> dict[str, Any]:
    """Read the JSON object in a request that changes something; it needs the token of the page."""
    sent = request.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(sent.encode(), csrf_token.encode()):
        raise Problem(
            403, "csrf-token", "The token of the page is missing or no longer valid. Reload the page."
        )
    check_length(request.headers, service.limits)
    body = await read_body(request, service.limits, service.budget)
    service.budget.release(len(body))
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Problem(400, "malformed-json", "The body must be a JSON object.")
    return content


def add_label_routes(app: FastAPI, service: Service, labels: Labels, csrf_token: str) -> None:
    """Add the routes; each change needs the token that is in the page."""
    read = partial(read_change, service=service, csrf_token=csrf_token)
    _add_changes(app, labels, read)
    _add_training(app, labels, read)


def _add_changes(app: FastAPI, labels: Labels, read: Callable[[Request], Awaitable[dict[str, Any]]]) -> None:
    @app.get("/app/labels", include_in_schema=False)
    async def list_labels(
        choice: str = "all",
        offset: Annotated[int, Query(ge=0)] = 0,
        size: Annotated[int, Query(ge=1, le=200)] = _PAGE,
        rows: Annotated[str | None, Query(pattern=r"^\d{1,9}(,\d{1,9}){0,199}$")] = None,
    ) -> Response:
        if rows is not None:  # chosen by the client
            chosen = [int(row) for row in rows.split(",")]
            if max(chosen) >= len(labels.current):
                raise Problem(
                    422, "unknown-image", f"Rows must be below {len(labels.current)}; got {max(chosen)}."
                )
            return to_response({"changed": len(labels.changed), "images": labels.describe(chosen)})
        try:
            all_rows, notes = await asyncio.to_thread(labels.list_rows, choice)
        except ValueError as error:
            raise Problem(422, "no-list", str(error)) from None
        images = labels.describe(all_rows[offset : offset + size], notes)
        return to_response({"total": len(all_rows), "changed": len(labels.changed), "images": images})

    @app.post("/app/labels", include_in_schema=False)
    async def change(request: Request) -> Response:
        content = await read(request)
        rows, label = content.get("rows"), content.get("label")
        is_valid = isinstance(rows, list) and all(type(row) is int for row in rows) and isinstance(label, str)
        if not is_valid:
            raise Problem(422, "invalid-change", "Expected `rows`, a list of integers, and `label`, a class.")
        n = await asyncio.to_thread(labels.change, rows, label)
        return to_response({"images": n, "changed": len(labels.changed)})

    @app.post("/app/undo", include_in_schema=False)
    async def undo(request: Request) -> Response:
        await read(request)
        rows = await asyncio.to_thread(labels.undo)
        return to_response({"rows": rows, "changed": len(labels.changed)})

    @app.get("/app/labels.csv", include_in_schema=False)
    async def export() -> Response:
        headers = {"Content-Disposition": 'attachment; filename="labels.csv"'}
        text = await asyncio.to_thread(labels.export)
        content = text.encode("utf-8", "surrogateescape")  # names of files may not be Unicode
        return Response(content, media_type="text/csv; charset=utf-8", headers=headers)


def _add_training(app: FastAPI, labels: Labels, read: Callable[[Request], Awaitable[dict[str, Any]]]) -> None:
    @app.post("/app/retrain", include_in_schema=False)
    async def retrain(request: Request) -> Response:
        await read(request)
        return to_response(await asyncio.to_thread(labels.retrain))

    @app.get("/app/retrain", include_in_schema=False)
    async def describe_retraining() -> Response:
        return to_response(labels.retraining.describe())

    @app.post("/app/save", include_in_schema=False)
    async def save(request: Request) -> Response:
        await read(request)
        return to_response({"path": await asyncio.to_thread(labels.save)})
