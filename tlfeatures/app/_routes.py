"""Routes of the REST service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from tlfeatures import __version__
from tlfeatures._json import to_json
from tlfeatures.app import _openapi
from tlfeatures.app._access import AccessMiddleware, AccessPolicy
from tlfeatures.app._limits import Limits
from tlfeatures.app._metrics import Metrics
from tlfeatures.app._model import ServedModel
from tlfeatures.app._problems import MEDIA_TYPE, Problem
from tlfeatures.app._queue import BatchQueue, QueueFull
from tlfeatures.app._uploads import MemoryBudget, Upload, check_length, read_body, read_uploads

__all__ = ["Service", "make_application", "to_response"]

_PATHS = (
    "/v1/predict",
    "/v1/embed",
    "/v1/explain",
    "/v1/model",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "/",
)


class Service:
    """Objects that all routes use: the model, its queue, the limits and the metrics.

    Parameters
    ----------
    model : ServedModel
    limits : Limits
    """

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self.model = model
        # a request with more images would never fit into the queue
        self.limits = replace(limits, images=min(limits.images, limits.queue))
        self.metrics = Metrics(_PATHS)
        self.budget = MemoryBudget(limits.memory_bytes)
        self.queue = BatchQueue(model.compute, model.batch_size, limits.queue, self.metrics)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Run the queue; at the end, compute the images that are still waiting."""
        self.queue.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.queue.stop)

    async def read_and_compute(self, request: Request, task: Hashable) -> list[dict[str, Any]]:
        """Read the images of a request, and compute a task for each.

        Returns
        -------
        list of dict
            The name of each image, its results, and "error", a problem or None.

        Raises
        ------
        Problem
            If the request as a whole cannot be answered.
        """
        check_length(request.headers, self.limits)
        body = await read_body(request, self.limits, self.budget)
        try:
            uploads = await read_uploads(request, body, self.limits)
            results = await self._compute(task, uploads)
        finally:
            self.budget.release(len(body))
        n_errors = sum(result["error"] is not None for result in results)
        self.metrics.add_images("error", n_errors)
        self.metrics.add_images("ok", len(results) - n_errors)
        return results

    async def _compute(self, task: Hashable, uploads: Sequence[Upload]) -> list[dict[str, Any]]:
        results: list[Any] = [upload.problem for upload in uploads]
        rows = [row for row, problem in enumerate(results) if problem is None]
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                computed = await self.queue.submit(task, [uploads[row].data for row in rows])
        except QueueFull as error:
            detail = "The queue of images is full. Repeat the request later."
            raise Problem(503, "queue-full", detail, {"Retry-After": str(error.args[0])}) from None
        except TimeoutError:
            detail = f"The request was not answered within {self.limits.answer_seconds:g} s."
            raise Problem(503, "answer-timeout", detail, {"Retry-After": "10"}) from None
        for row, result in zip(rows, computed, strict=True):
            results[row] = result
        return [_to_entry(upload.name, result) for upload, result in zip(uploads, results, strict=True)]


def _to_entry(name: str, result: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return {"name": name, **result, "error": None}
    if not isinstance(result, Problem):
        result = Problem(500, "internal-error", f"The image could not be processed: {type(result).__name__}.")
    return {"name": name, "error": result.to_dict()}


def to_response(content: Any, status: int = 200) -> Response:
    """Encode an answer as JSON; numbers that are not finite become null."""
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError:
        text = json.dumps(to_json(content), allow_nan=False)
    return Response(text.encode(), status, media_type="application/json")


def _respond_with(problem: Problem) -> Response:
    return Response(problem.encode(), problem.status, problem.headers, MEDIA_TYPE)


def make_application(model: ServedModel, policy: AccessPolicy, limits: Limits) -> FastAPI:
    """Make the application with all routes of the service."""
    service = Service(model, limits)
    name = model.about()["name"].encode("utf-8", "backslashreplace").decode()  # may not be Unicode
    app = FastAPI(
        title="tlfeatures",
        summary=f"Predictions of {name}",
        version=__version__,
        lifespan=service.lifespan,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(AccessMiddleware, policy=policy, metrics=service.metrics, max_requests=limits.requests)
    _add_problems(app)
    _add_tasks(app, service)
    _add_information(app, service)
    return app


def _add_problems(app: FastAPI) -> None:
    """Answer every error with a problem detail (RFC 9457)."""

    @app.exception_handler(Problem)
    async def handle_problem(request: Request, error: Problem) -> Response:
        return _respond_with(error)

    @app.exception_handler(HTTPException)
    async def handle_status(request: Request, error: HTTPException) -> Response:
        return _respond_with(Problem.of_status(error.status_code, headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def handle_parameters(request: Request, error: RequestValidationError) -> Response:
        reasons = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        return _respond_with(Problem(422, "invalid-parameter", f"Invalid parameters: {reasons}."))

    @app.exception_handler(Exception)
    async def handle_error(request: Request, error: Exception) -> Response:
        detail = "The request failed; the log of the service states the reason."
        return _respond_with(Problem(500, "internal-error", detail))


def _add_tasks(app: FastAPI, service: Service) -> None:
    name = service.model.about()["name"]

    @app.post("/v1/predict", summary="Predict", **_openapi.describe_task("predict"))
    async def predict(request: Request) -> Response:
        """Predict for images. The entry of an image that cannot be read has an error; the others are not affected."""
        return to_response({"model": name, "images": await service.read_and_compute(request, ("predict",))})

    @app.post("/v1/embed", summary="Compute embeddings", **_openapi.describe_task("embed"))
    async def embed(request: Request) -> Response:
        """Compute the embeddings of images: the output of the network, which is the input of the head."""
        return to_response({"model": name, "images": await service.read_and_compute(request, ("embed",))})

    @app.post("/v1/explain", summary="Compute maps", **_openapi.describe_task("explain"))
    async def explain(
        request: Request,
        label: Annotated[
            str | None, Query(description="The class to explain; by default the predicted one.")
        ] = None,
    ) -> Response:
        """Compute maps of the regions of images that support (positive) or oppose (negative) a class.

        The mean of a map plus the constant is the value. "box" is the part of the image that the map covers: left, top,
        right and bottom in units of its width and height; it may extend beyond the image.
        """
        images = await service.read_and_compute(request, ("explain", label))
        return to_response({"model": name, "images": images})


def _add_information(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", summary="Describe the model", responses=_openapi.MODEL)
    async def model() -> Response:
        """Describe the model: network, layers, head, classes, versions, and the limits of requests."""
        limits = service.limits
        return to_response(
            {
                **service.model.about(),
                "limits": {
                    "images": limits.images,
                    "image_bytes": limits.image_bytes,
                    "request_bytes": limits.request_bytes,
                    "pixels": limits.pixels,
                },
            }
        )

    @app.get("/healthz", summary="Check that the service runs", responses=_openapi.HEALTH)
    async def healthz() -> Response:
        """Answer 200 while the service runs; needs no token."""
        return to_response({"status": "ok"})

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return counts and times in the text format of Prometheus; each worker has its own."""
        return Response(service.metrics.format(), media_type="text/plain; version=0.0.4; charset=utf-8")
