"""Drawn faces, for machines without photographs of faces."""

from __future__ import annotations

import numpy as np

__all__ = ["draw_faces"]

_SIDE = 128
_SCALE = 2  # faces are drawn larger and then reduced, which smooths edges


def draw_faces(n_persons: int = 12, n_images: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw faces of several persons, each in several images that differ in light, place, size, mouth and background.

    Parameters
    ----------
    n_persons : int, default=12
    n_images : int, default=8
        Images of each person.
    seed : int, default=0

    Returns
    -------
    X : ndarray of uint8, shape (n_persons * n_images, 128, 128, 3)
    y : ndarray of str
        Names of the persons, "person 00" and so on.

    Examples
    --------
    >>> X, y = draw_faces(3, 2)
    >>> X.shape, y[::2].tolist()
    ((6, 128, 128, 3), ['person 00', 'person 01', 'person 02'])
    """
    rng = np.random.default_rng(seed)
    persons = [_draw_person(rng) for _ in range(n_persons)]
    X = np.stack([_draw_face(rng, person) for person in persons for _ in range(n_images)])
    return X, np.repeat([f"person {i:02d}" for i in range(n_persons)], n_images)


def _draw_person(rng: np.random.Generator) -> dict[str, float | np.ndarray]:
    """Draw what all images of a person have in common; lengths are relative to the side of the image."""
    skin = np.array([235, 200, 170]) * rng.uniform(0.35, 1.05)
    return {
        "skin": np.clip(skin + rng.normal(0, 8, 3), 20, 250),
        "hair": rng.uniform(10, 200) * np.array([1.0, rng.uniform(0.6, 1), rng.uniform(0.2, 1)]),
        "eyes": rng.uniform(20, 160, 3),
        "width": rng.uniform(0.22, 0.31),
        "height": rng.uniform(0.3, 0.38),
        "fringe": rng.uniform(0.05, 0.25),
        "length": rng.uniform(-0.05, 0.35),
        "eye_distance": rng.uniform(0.085, 0.135),
        "eye_size": rng.uniform(0.022, 0.04),
        "brow": rng.uniform(-0.03, 0.03),
        "brow_width": rng.uniform(0.006, 0.02),
        "nose": rng.uniform(0.06, 0.13),
        "mouth": rng.uniform(0.06, 0.13),
        "beard": rng.uniform() if rng.uniform() < 0.3 else 0.0,
        "glasses": float(rng.uniform() < 0.3),
    }


def _draw_face(rng: np.random.Generator, person: dict) -> np.ndarray:
    """Draw one image of a person."""
    from PIL import Image, ImageDraw

    side = _SIDE * _SCALE
    light, zoom = rng.uniform(0.7, 1.15), side * rng.uniform(0.88, 1.08)
    cx, cy = side * (0.5 + rng.normal(0, 0.03, 2))
    background = np.clip(rng.uniform(40, 230) + rng.normal(0, 15, 3), 0, 255)
    image = Image.new("RGB", (side, side), tuple(background.astype(int)))
    draw = ImageDraw.Draw(image)

    def color(value: np.ndarray, factor: float = 1.0) -> tuple[int, ...]:
        return tuple(np.clip(np.asarray(value) * light * factor, 0, 255).astype(int).tolist())

    def ellipse(x: float, y: float, width: float, height: float, fill: tuple[int, ...]) -> None:
        box = (
            cx + (x - width) * zoom,
            cy + (y - height) * zoom,
            cx + (x + width) * zoom,
            cy + (y + height) * zoom,
        )
        draw.ellipse(box, fill=fill)

    p, skin, hair = person, color(person["skin"]), color(person["hair"])
    ellipse(0, p["length"] / 2 - 0.06, p["width"] + 0.05, p["height"] + 0.02 + p["length"] / 2, hair)
    draw.rectangle((cx - 0.1 * zoom, cy + 0.2 * zoom, cx + 0.1 * zoom, side), fill=color(p["skin"], 0.85))
    ellipse(0, 0.7, 0.4, 0.25, color(np.array([90, 100, 120]), rng.uniform(0.5, 1.5)))
    ellipse(0, 0, p["width"], p["height"], skin)
    fringe = (
        -p["width"] * zoom + cx,
        cy - p["height"] * zoom,
        cx + p["width"] * zoom,
        cy + p["height"] * zoom,
    )
    half = 25 + 240 * p["fringe"]
    draw.chord(fringe, 270 - half, 270 + half, fill=hair)
    if p["beard"]:
        draw.chord(fringe, 90 - 40 * p["beard"] - 15, 90 + 40 * p["beard"] + 15, fill=color(p["hair"], 0.8))
    for sign in (-1, 1):
        x = sign * p["eye_distance"]
        ellipse(x, -0.04, 1.5 * p["eye_size"], p["eye_size"], color(np.array([240, 240, 240])))
        ellipse(x + rng.normal(0, 0.004), -0.04, 0.7 * p["eye_size"], 0.8 * p["eye_size"], color(p["eyes"]))
        brow = [(x - sign * 0.05, -0.1 + p["brow"]), (x + sign * 0.05, -0.1 - p["brow"])]
        line = [(cx + u * zoom, cy + v * zoom) for u, v in brow]
        draw.line(line, fill=color(p["hair"], 0.7), width=int(1 + p["brow_width"] * zoom))
        if p["glasses"]:
            box = (x - 0.065, -0.09, x + 0.065, 0.01)
            corners = [cx + box[0] * zoom, cy + box[1] * zoom, cx + box[2] * zoom, cy + box[3] * zoom]
            draw.ellipse(corners, outline=(20, 20, 20), width=4)
    nose = [(cx, cy - 0.02 * zoom), (cx + 0.02 * zoom, cy + (p["nose"] - 0.02) * zoom)]
    draw.line(nose, fill=color(p["skin"], 0.7), width=5)
    curve = rng.uniform(0.01, 0.05)  # the expression
    mouth = (
        cx - p["mouth"] * zoom,
        cy + (0.16 - curve) * zoom,
        cx + p["mouth"] * zoom,
        cy + (0.16 + curve) * zoom,
    )
    draw.arc(mouth, 10, 170, fill=color(np.array([170, 60, 60])), width=6)
    pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
