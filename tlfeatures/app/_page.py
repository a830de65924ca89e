"""Routes of the page; its files are read at the start, so that no path of a client is ever opened."""

from __future__ import annotations

import json
import secrets
from functools import partial
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import Response
from jinja2 import ChoiceLoader, PackageLoader

from tlfeatures.app._checks import DataChecks
from tlfeatures.app._data_routes import add_data_routes
from tlfeatures.app._journal import Journal
from tlfeatures.app._label_routes import add_label_routes, read_change
from tlfeatures.app._labels import Labels, can_train
from tlfeatures.app._model_routes import ScoreFigures, add_model_routes, describe_model
from tlfeatures.app._problems import Problem
from tlfeatures.app._routes import Service, to_response
from tlfeatures.report import make_environment

__all__ = ["add_page"]

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def read_static_files() -> dict[str, tuple[bytes, str]]:
    """Return content and type of the files of the page by their names."""
    static = {
        path.name: (path.read_bytes(), _TYPES[path.name[path.name.rindex(".") :]])
        for path in files("tlfeatures.app").joinpath("static").iterdir()
        if path.name.endswith(tuple(_TYPES))
    }
    style = files("tlfeatures.report").joinpath("templates", "style.css").read_bytes()
    return {**static, "report.css": (style, _TYPES[".css"])}


def add_page(app: FastAPI, service: Service, journal: Journal | None = None) -> None:
    """Add the routes of the page to the application of the service; with a journal, also those that change labels."""
    static = read_static_files()
    environment = make_environment()
    environment.loader = ChoiceLoader([PackageLoader("tlfeatures.app"), PackageLoader("tlfeatures.report")])
    template, model, training = environment.get_template("page.html"), service.model, service.model.training

    csrf_token, labels = secrets.token_urlsafe(24), None
    if training is not None and journal is not None and can_train(model):
        labels = Labels(model, journal)
        add_label_routes(app, service, labels, csrf_token)
    if training is not None:
        checks = DataChecks(model, lambda: training.current.copy())
        read = partial(read_change, service=service, csrf_token=csrf_token)
        add_data_routes(app, training, checks, checks.get_labels, read)
        add_model_routes(app, ScoreFigures(checks, environment))

    card, recipe = describe_model(model)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        about = model.about()
        # of the model at the start: a class that has no image now can still be chosen as a label
        classes = list(labels.texts) if labels is not None else [str(name) for name in about["classes"] or ()]
        settings = {
            "images": min(16, service.limits.images),
            "request_bytes": service.limits.request_bytes,
            "error_rate": about["error_rate"],
            "classes": classes,
            "csrf": csrf_token,
            "labels": labels is not None,
        }
        html = template.render(
            about=about,
            card=card,
            recipe=recipe,
            classes=classes,
            settings=json.dumps(settings),
            labels=labels is not None,
            training=training,
        )
        content = html.encode("utf-8", "backslashreplace")  # names of files and classes may not be Unicode
        return Response(content, media_type="text/html; charset=utf-8")

    @app.get("/static/{name}", include_in_schema=False)
    async def static_file(name: str) -> Response:
        if name not in static:
            raise Problem.of_status(404)
        content, kind = static[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.post("/app/predict", include_in_schema=False)
    async def predict(request: Request) -> Response:
        return to_response({"images": await service.read_and_compute(request, ("page",))})
