"""Routes of the page that show the training images and the results of the checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response

from tlfeatures.app._checks import CheckResult, DataChecks
from tlfeatures.app._problems import Problem
from tlfeatures.app._routes import to_response
from tlfeatures.app._training import TrainingImages
from tlfeatures.errors import ImageReadError

__all__ = ["add_data_routes"]


def add_data_routes(
    app: FastAPI,
    training: TrainingImages,
    checks: DataChecks,
    get_labels: Callable[[], np.ndarray],
    read: Any,
) -> None:
    """Add the routes; ``read`` checks the token of the page in a request that starts the checks again."""
    _add_thumbnails(app, training)

    @app.get("/app/data", include_in_schema=False)
    async def data() -> Response:
        return await asyncio.to_thread(lambda: to_response(describe_images(training, get_labels())))

    @app.get("/app/checks", include_in_schema=False)
    async def state(seen: int = 0) -> Response:
        """Start the checks unless they were started before; leave out the result if its number is ``seen``."""
        checks.start()
        return await asyncio.to_thread(lambda: to_response(describe_checks(checks, seen)))

    @app.post("/app/checks", include_in_schema=False)
    async def again(request: Request) -> Response:
        await read(request)
        checks.start(again=True)
        return to_response(checks.describe())

    @app.get("/app/map", include_in_schema=False)
    async def points() -> Response:
        if checks.points is None:
            raise Problem(
                409, "no-map", "The map is not ready. Ask /app/checks for the state, and try again."
            )
        return Response(checks.points, media_type="application/octet-stream")


def _add_thumbnails(app: FastAPI, training: TrainingImages) -> None:
    async def answer(request: Request, row: int, is_large: bool) -> Response:
        if not 0 <= row < len(training):
            raise Problem.of_status(404)
        tag = training.make_tag(row, is_large)
        # browsers keep the image, and ask whether it is still the same
        headers = {"Cache-Control": "private, no-cache", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        try:
            content = await asyncio.to_thread(training.thumbnail, row, is_large)
        except ImageReadError as error:
            raise Problem.unreadable(error.reason, 404) from None
        return Response(content, media_type="image/jpeg", headers=headers)

    @app.get("/app/training/{row}", include_in_schema=False)
    async def thumbnail(request: Request, row: int) -> Response:
        return await answer(request, row, False)

    @app.get("/app/training/{row}/large", include_in_schema=False)
    async def large(request: Request, row: int) -> Response:
        return await answer(request, row, True)


def describe_images(training: TrainingImages, labels: np.ndarray) -> dict[str, Any]:
    """Return the names of all images, their current and original labels, and their splits, as codes."""
    texts, (current, original) = _encode([labels, training.labels])
    content: dict[str, Any] = {
        "names": training.names,
        "texts": texts,
        "labels": current,
        "original": original,
    }
    if training.split is not None:
        splits, (codes,) = _encode([training.split])
        content |= {"splits": splits, "split": codes}
    return content | {"unreadable": np.setdiff1d(np.arange(len(training)), training.rows).tolist()}


def describe_checks(checks: DataChecks, seen: int) -> dict[str, Any]:
    """Return the state of the checks and, if it is new, their result."""
    content, result = checks.describe(), checks.result
    if result is None or content["number"] == seen:
        return content
    return content | {"result": _describe_result(result)}


def _describe_result(result: CheckResult) -> dict[str, Any]:
    predicted = np.full(len(result.labels), None, object)
    if result.out_of_fold is not None:
        predicted[result.out_of_fold.rows] = result.out_of_fold.predicted.tolist()
    texts, (codes, labels) = _encode([predicted, result.labels])
    suspected, duplicates, outliers = result.suspected, result.duplicates, result.outliers
    return {
        "texts": texts,
        "predicted": codes,
        "labels": labels,
        "suspected": {
            "rows": suspected["row"].tolist(),
            "suggestions": suspected["suggestion"].map(str).tolist(),
            "scores": suspected["score"].tolist(),
        },
        "duplicates": {
            "rows": duplicates["row"].tolist(),
            "groups": duplicates["group"].tolist(),
            "exact": (duplicates["kind"] == "exact").tolist(),
        },
        "outliers": {"rows": outliers["row"].tolist(), "scores": outliers["score"].tolist()},
        "notes": result.notes,
    }


def _encode(columns: Sequence[np.ndarray]) -> tuple[list[str], list[list[int]]]:
    """Return the texts of all values, and for each column their positions; -1 for None."""
    texts: dict[str, int] = {}
    codes = [
        [-1 if value is None else texts.setdefault(str(value), len(texts)) for value in column.tolist()]
        for column in columns
    ]
    return list(texts), codes
