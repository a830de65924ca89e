"""The view of the model: its card, and scores and figures of out-of-fold predictions."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import Response
from jinja2 import Environment

from tlfeatures.app._checks import CheckResult, DataChecks
from tlfeatures.app._model import ServedModel
from tlfeatures.app._problems import Problem
from tlfeatures.errors import SavedModelError
from tlfeatures.model_files import format_card, read_card
from tlfeatures.report import draw_predictions
from tlfeatures.results import score_bounds

__all__ = ["ScoreFigures", "add_model_routes", "describe_model"]

_TITLES = {
    "name": "file",
    "task": "task",
    "classes": "classes",
    "network": "network",
    "layers": "layers",
    "pooling": "pooling",
    "image_size": "image size",
    "resize": "resize",
    "n_features": "width of the embedding",
    "head": "head",
    "error_rate": "error rate of the sets",
    "version": "tlfeatures",
}


def describe_model(model: ServedModel) -> tuple[dict[str, str], str | None]:
    """Return the rows of the model card, and the recipe of the embeddings as JSON.

    A .tlf file has a card; of other files, only what the loaded model shows is known, and the recipe is None.
    """
    try:
        card = read_card(model.path)
    except SavedModelError:
        about = {title: model.about()[key] for key, title in _TITLES.items()}
        return {title: _to_text(value) for title, value in about.items() if value is not None}, None
    rows = dict(format_card({**card, "file": os.path.basename(model.path)}))
    return rows, json.dumps(card["recipes"], indent=2, ensure_ascii=False) if card["recipes"] else None


def _to_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class ScoreFigures:
    """Scores and figures of the last checks, which are drawn once.

    Parameters
    ----------
    checks : DataChecks
    environment : Environment
        Environment with the templates of the page and of the report.
    """

    def __init__(self, checks: DataChecks, environment: Environment) -> None:
        self.checks, self.template = checks, environment.get_template("scores.html")
        self._lock = threading.Lock()
        self._number, self._html, self._figures = 0, "", {}

    def render(self) -> str:
        """Return the part of the page with the scores.

        Raises
        ------
        Problem
            If the checks are not finished.
        """
        with self._lock:
            number, result = self.checks.number, self.checks.result
            if result is None:
                raise Problem(
                    409, "not-ready", "The scores are not ready. Wait until the checks are finished."
                )
            if number != self._number:
                self._html, self._figures = self._draw(result, number)
                self._number = number
            return self._html

    def get(self, name: str) -> bytes:
        """Return a figure as a PNG file."""
        if name not in self._figures:
            raise Problem.of_status(404)
        return self._figures[name]

    def _draw(self, result: CheckResult, number: int) -> tuple[str, dict[str, bytes]]:
        predictions = result.out_of_fold
        if predictions is None:
            return self.template.render(predictions=None, notes=result.notes), {}
        probabilities = predictions.probabilities if predictions.has_probabilities else None
        drawn = draw_predictions(predictions.true, predictions.predicted, predictions.classes, probabilities)
        is_regression = predictions.classes is None
        bounds = score_bounds("R2" if is_regression else "accuracy")
        error = float(np.mean(np.abs(predictions.predicted - predictions.true))) if is_regression else None
        html = self.template.render(
            predictions=predictions,
            mean=float(predictions.scores.mean()),
            interval=np.clip([predictions.low, predictions.high], *bounds).tolist(),
            mae=error,
            notes=result.notes,
            number=number,
            drawn=drawn,
        )
        return html, drawn.figures


def add_model_routes(app: FastAPI, scores: ScoreFigures) -> None:
    """Add the routes of the scores and figures."""

    @app.get("/app/scores", include_in_schema=False)
    async def show_scores() -> Response:
        html = await asyncio.to_thread(scores.render)
        return Response(html.encode("utf-8", "backslashreplace"), media_type="text/html; charset=utf-8")

    @app.get("/app/figures/{name}", include_in_schema=False)
    async def figure(name: str) -> Response:
        return Response(scores.get(name), media_type="image/png")
