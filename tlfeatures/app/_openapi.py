"""Descriptions and examples of the routes for OpenAPI."""

from __future__ import annotations

from typing import Any

from tlfeatures.app._problems import MEDIA_TYPE, Problem

__all__ = ["HEALTH", "MODEL", "describe_task"]

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_ERROR = Problem.unreadable("not an image in a known format").to_dict()
_REQUEST = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                "required": ["file"],
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "images": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "data": {"type": "string", "contentEncoding": "base64"},
                            },
                            "required": ["data"],
                        },
                    }
                },
                "required": ["images"],
            },
            "example": {"images": [{"name": "grey.png", "data": _PIXEL}]},
        },
    },
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "predict": {
        "prediction": "cat",
        "probabilities": {"cat": 0.93, "dog": 0.07},
        "set": ["cat"],
        "p_value": 0.61,
        "unusual": False,
    },
    "embed": {"embedding": [0.0, 0.52, 1.75]},
    "explain": {
        "prediction": "cat",
        "label": "cat",
        "value": 1.25,
        "value_name": "decision value",
        "constant": 0.25,
        "method": "exact",
        "box": [0.0, 0.0, 1.0, 1.0],
        "map": [[0.0, 2.0], [1.0, 1.0]],
    },
}
_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_STATUSES = {
    400: "The form or the JSON is malformed.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site.",
    408: "The body did not arrive in time.",
    413: "The request has too many bytes or images.",
    415: "The content type is neither a form nor JSON.",
    421: "The Host header is not an allowed name of this service.",
    422: "The request has no images, or a parameter is invalid.",
    503: "The queue is full; repeat the request after the time in Retry-After.",
}


def describe_task(name: str) -> dict[str, Any]:
    """Return the arguments of a route that takes images: request body, answers and examples."""
    example = {
        "model": "pets.tlf",
        "images": [
            {"name": "a.jpg", **_EXAMPLES[name], "error": None},
            {"name": "notes.txt", "error": _ERROR},
        ],
    }
    schema = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "images": {
                "type": "array",
                "description": "One entry for each image, in the order of the request.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        **{key: {} for key in _EXAMPLES[name]},
                        "error": {"anyOf": [_PROBLEM, {"type": "null"}]},
                    },
                    "required": ["name", "error"],
                },
            },
        },
    }
    content = {"application/json": {"schema": schema, "example": example}}
    responses: dict[int, Any] = {200: {"description": "One entry for each image.", "content": content}}
    for status, text in _STATUSES.items():
        responses[status] = {"description": text, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
    return {"responses": responses, "openapi_extra": {"requestBody": _REQUEST}}


HEALTH: dict[int | str, Any] = {200: {"content": {"application/json": {"example": {"status": "ok"}}}}}
MODEL: dict[int | str, Any] = {
    200: {
        "content": {
            "application/json": {
                "example": {
                    "name": "pets.tlf",
                    "task": "classification",
                    "classes": ["cat", "dog"],
                    "network": "mobilenet_0.75",
                    "n_features": 768,
                }
            }
        }
    }
}
