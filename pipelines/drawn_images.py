"""Procedurally generated training images: fractals, gratings, noise, shapes, limbs, strokes and text.

`python pipelines/drawn_images.py sheet.png` saves a contact sheet with examples of each kind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["KINDS", "draw"]

Rng = np.random.Generator
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!?&@#%()[]{}+-=<>/*"  # no digits: they are test data


def draw(rng: Rng, size: int = 192, kind: str | None = None) -> np.ndarray:
    """Draw one image, uint8 of shape (size, size, 3); the kind is drawn from ``KINDS`` by default."""
    kind = kind or str(rng.choice(list(KINDS)))
    return KINDS[kind](rng, size)


# -- building blocks ---------------------------------------------------------------------------------------


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    return y, x


def _color(rng: Rng) -> np.ndarray:
    """Draw an RGB color, usually of low saturation."""
    grey = rng.uniform(0, 255)
    return np.clip(grey + rng.normal(0, rng.choice([10, 35, 90]), 3), 0, 255)


def _ramp(rng: Rng, t: np.ndarray, n: int = 0) -> np.ndarray:
    """Map values in [0, 1] to colors of a random palette."""
    stops = np.stack([_color(rng) for _ in range(n or rng.integers(2, 6))])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(t, at, stops[:, c]) for c in range(3)], -1).astype(np.float32)


def _unit(t: np.ndarray) -> np.ndarray:
    low, high = t.min(), t.max()
    return (t - low) / max(high - low, 1e-6)


def _cloud(rng: Rng, size: int, exponent: float | None = None) -> np.ndarray:
    """Draw noise in [0, 1] with amplitude proportional to frequency ** -exponent."""
    exponent = rng.uniform(0.6, 2.4) if exponent is None else exponent
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / f**exponent
    spectrum[0, 0] = 0
    return _unit(np.fft.irfft2(spectrum, (size, size))).astype(np.float32)


def _background(rng: Rng, size: int) -> np.ndarray:
    """Draw a background: uniform, a linear gradient, or smooth noise."""
    kind = rng.integers(4)
    if kind == 0:
        t = np.full((size, size), 0.5, np.float32)
    elif kind < 3:
        y, x = _grid(size)
        angle = rng.uniform(0, 2 * np.pi)
        t = _unit(np.cos(angle) * x + np.sin(angle) * y)
    else:
        t = _cloud(rng, size, 1.8)
    return _ramp(rng, t, 2)


def _finish(rng: Rng, pixels: np.ndarray) -> np.ndarray:
    """Add sensor noise to some images, and convert to uint8."""
    if rng.random() < 0.4:
        pixels = pixels + rng.normal(0, rng.uniform(1, 12), (*pixels.shape[:2], 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _canvas(rng: Rng, size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.fromarray(_background(rng, size).astype(np.uint8))
    return image, ImageDraw.Draw(image)


def _fill(rng: Rng) -> tuple[int, ...]:
    return tuple(int(c) for c in _color(rng))


# -- kinds ---------------------------------------------------------------------------------------


def noise(rng: Rng, size: int) -> np.ndarray:
    """Draw smooth to grainy noise, with one palette or three independent channels."""
    if rng.random() < 0.3:
        return _finish(rng, 255 * np.stack([_cloud(rng, size) for _ in range(3)], -1))
    t = _cloud(rng, size)
    if rng.random() < 0.3:
        t = np.abs(2 * t - 1)  # ridges
    return _finish(rng, _ramp(rng, t))


def gratings(rng: Rng, size: int) -> np.ndarray:
    """Draw waves, stripes, checkerboards and rings, distorted by noise."""
    y, x = _grid(size)
    bend = rng.choice([0, 0.05, 0.2]) * (_cloud(rng, size, 2.0) - 0.5)
    waves = []
    for _ in range(rng.integers(1, 4)):
        angle, cycles = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(2), np.log(30)))
        along = np.cos(angle) * x + np.sin(angle) * y
        if rng.random() < 0.2:
            along = np.hypot(x - rng.uniform(), y - rng.uniform())
        waves.append(np.sin(2 * np.pi * cycles * (along + bend) + rng.uniform(0, 6)))
    t = _unit(np.prod(waves, 0) if rng.random() < 0.5 else np.sum(waves, 0))
    if rng.random() < 0.5:
        t = _unit(np.tanh((t - 0.5) * rng.uniform(2, 40)))  # hard edges
    return _finish(rng, _ramp(rng, t, int(rng.integers(2, 4))))


def julia(rng: Rng, size: int) -> np.ndarray:
    """Draw a Julia set: escape times of z -> z**p + c."""
    y, x = _grid(size)
    center, zoom = rng.uniform(-0.5, 0.5, 2), np.exp(rng.uniform(np.log(0.4), np.log(3)))
    z = (zoom * (x - 0.5) + center[0] + 1j * (zoom * (y - 0.5) + center[1])).astype(np.complex64)
    angle = rng.uniform(0, 2 * np.pi)
    c = np.complex64((0.5 * np.exp(1j * angle) - 0.25 * np.exp(2j * angle)) * rng.uniform(0.95, 1.15))
    power, escaped = rng.choice([2, 2, 3]), np.zeros(z.shape, np.float32)
    for _ in range(24):
        z = np.where(np.abs(z) < 4, z**power + c, z)
        escaped += np.abs(z) < 4
    return _finish(rng, _ramp(rng, np.sqrt(_unit(escaped)), int(rng.integers(3, 7))))


def attractor(rng: Rng, size: int) -> np.ndarray:
    """Draw the density of an iterated function system of random affine maps."""
    n, points = int(rng.integers(2, 6)), 400
    maps = rng.uniform(-1, 1, (n, 2, 2))
    maps *= rng.uniform(0.4, 0.8, (n, 1, 1)) / np.linalg.norm(maps, 2, axis=(1, 2))[:, None, None]
    shifts = rng.uniform(-1, 1, (n, 2))
    p, trail = rng.uniform(-1, 1, (points, 2)), []
    for step in range(70):
        which = rng.integers(n, size=points)
        p = np.einsum("kij,kj->ki", maps[which], p) + shifts[which]
        if step > 10:
            trail.append(p)
    q = np.concatenate(trail)
    low, high = q.min(0), q.max(0)
    cells = ((q - low) / (high - low + 1e-6) * (size - 1) * 0.96 + 0.02 * size).astype(int)
    density = np.bincount(cells[:, 0] * size + cells[:, 1], minlength=size * size).reshape(size, size)
    t = np.log1p(density).astype(np.float32)
    t = np.clip(t / np.quantile(t[t > 0], 0.9), 0, 1)[..., None]
    return _finish(rng, (1 - t) * _background(rng, size) + t * _ramp(rng, _cloud(rng, size, 1.8)))


def shapes(rng: Rng, size: int) -> np.ndarray:
    """Draw overlapping polygons, stars and ellipses: flat, shaded or textured."""
    pixels = _background(rng, size)
    y, x = _grid(size)
    count = int(np.exp(rng.uniform(np.log(1), np.log(40))))
    for _ in range(count):
        mask = Image.new("L", (size, size))
        pen = ImageDraw.Draw(mask)
        cy, cx = rng.uniform(0, size, 2)
        radius = size * rng.uniform(0.05, 0.45) / np.sqrt(max(count / 6, 1))
        if rng.random() < 0.35:
            a, b = radius * rng.uniform(0.4, 1, 2)
            pen.ellipse([cx - a, cy - b, cx + a, cy + b], fill=255)
        else:
            k = int(rng.integers(3, 12))
            angles = np.sort(rng.uniform(0, 2 * np.pi, k))
            reach = radius * (rng.uniform(0.3, 1, k) if rng.random() < 0.6 else np.resize([1, 0.45], k))
            points = zip(cx + reach * np.cos(angles), cy + reach * np.sin(angles), strict=True)
            pen.polygon([(float(px), float(py)) for px, py in points], fill=255)
        alpha = np.asarray(mask, np.float32)[..., None] / 255
        kind, paint = rng.random(), _color(rng)
        if kind < 0.3:
            paint = _ramp(rng, _cloud(rng, size), 2)
        elif kind < 0.6:
            light = np.clip(
                1.3 - np.hypot(x * size - cx + radius / 3, y * size - cy + radius / 3) / radius, 0.2, 1.3
            )
            paint = paint * light[..., None]
        pixels = (1 - alpha) * pixels + alpha * paint
    return _finish(rng, pixels)


def limbs(rng: Rng, size: int) -> np.ndarray:
    """Draw a shaded body with rounded limbs on a background."""
    y, x = _grid(size)
    field = np.full((size, size), 9.0, np.float32)

    def capsule(ay: float, ax: float, by: float, bx: float, ra: float, rb: float) -> None:
        """Add the signed distance to a tapered line segment."""
        dy, dx = by - ay, bx - ax
        t = np.clip(((y - ay) * dy + (x - ax) * dx) / (dy * dy + dx * dx + 1e-6), 0, 1)
        np.minimum(field, np.hypot(y - ay - t * dy, x - ax - t * dx) - (ra + (rb - ra) * t), out=field)

    cy, cx = rng.uniform(0.3, 0.7, 2)
    body = rng.uniform(0.06, 0.2)
    capsule(cy, cx, *(np.array([cy, cx]) + rng.normal(0, 0.08, 2)), body, body * rng.uniform(0.6, 1.1))
    spread, start = rng.choice([0.5, 1, 2]) * np.pi, rng.uniform(0, 2 * np.pi)
    for k in range(n := int(rng.integers(1, 9))):
        angle = start + spread * (k + rng.uniform(-0.25, 0.25)) / n
        root, thick = rng.uniform(0.6, 1) * body, rng.uniform(0.015, 0.06)
        ay, ax = cy + root * np.sin(angle), cx + root * np.cos(angle)
        for _ in range(rng.integers(1, 4)):  # joints
            length = rng.uniform(0.06, 0.2)
            by, bx = ay + length * np.sin(angle), ax + length * np.cos(angle)
            capsule(ay, ax, by, bx, thick, thick * (taper := rng.uniform(0.7, 1)))
            ay, ax, thick, angle = by, bx, thick * taper, angle + rng.normal(0, 0.4)
    soft = rng.uniform(0.004, 0.02)
    alpha = np.clip(0.5 - field / soft, 0, 1)[..., None]
    light = np.clip(-field / body, 0, 1) ** 0.5
    shade = _unit(light + rng.uniform(0, 0.6) * (np.cos(start) * x + np.sin(start) * y))
    paint = _color(rng) * (rng.uniform(0.4, 0.9) + 0.6 * shade[..., None])
    if rng.random() < 0.3:
        paint = paint * (0.6 + 0.6 * _cloud(rng, size)[..., None])
    shadow = np.clip(1 - np.roll(field < 0, (6, 6), (0, 1))[..., None] * rng.choice([0, 0.35]), 0, 1)
    return _finish(rng, (1 - alpha) * _background(rng, size) * shadow + alpha * paint)


def strokes(rng: Rng, size: int) -> np.ndarray:
    """Draw thick open and closed curves."""
    image, pen = _canvas(rng, size)
    for _ in range(int(np.exp(rng.uniform(0, np.log(12))))):
        n = int(rng.integers(3, 7))
        path = np.cumsum(rng.normal(0, size * 0.22, (n, 2)), 0)
        path += rng.uniform(0.25, 0.75, 2) * size - path.mean(0)
        if rng.random() < 0.35:
            path = np.vstack([path, path[:2]])
        # uniform cubic B-spline
        t = np.linspace(0, 1, 12)[:, None]
        basis = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        path = np.vstack([path[:1], path, path[-1:]])
        spans = (range(i, i + 4) for i in range(len(path) - 3))
        curve = np.vstack([sum(b * path[i] for b, i in zip(basis, span, strict=True)) for span in spans])
        width, fill = int(size * rng.uniform(0.01, 0.12)) + 1, _fill(rng)
        pen.line([tuple(p) for p in curve.tolist()], fill=fill, width=width, joint="curve")
        for px, py in (curve[0].tolist(), curve[-1].tolist()):
            pen.ellipse([px - width / 2, py - width / 2, px + width / 2, py + width / 2], fill=fill)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
    return _finish(rng, np.asarray(image, np.float32))


def text(rng: Rng, size: int) -> np.ndarray:
    """Draw lines of text or single large characters in Pillow's default font, slightly rotated."""
    image, pen = _canvas(rng, size)
    for _ in range(rng.integers(1, 7)):
        points = float(np.exp(rng.uniform(np.log(9), np.log(140))))
        letters = "".join(rng.choice(list(LETTERS), max(1, int(rng.uniform(0.2, 1.6) * size / points))))
        at = rng.uniform(-0.1, 0.8, 2) * size
        pen.text(tuple(at.tolist()), letters, fill=_fill(rng), font=ImageFont.load_default(points))
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-40, 40), Image.Resampling.BILINEAR, fillcolor=_fill(rng))
    return _finish(rng, np.asarray(image, np.float32))


def cells(rng: Rng, size: int) -> np.ndarray:
    """Draw a Voronoi diagram: stones, scales, tiles."""
    y, x = _grid(size)
    points = rng.uniform(0, 1, (int(np.exp(rng.uniform(np.log(6), np.log(60)))), 2)).astype(np.float32)
    stretch = rng.uniform(0.5, 2)
    d = np.hypot(y[..., None] - points[:, 0], stretch * (x[..., None] - points[:, 1]))
    order = np.partition(d, 1, axis=-1)[..., :2]
    edge = np.clip((order[..., 1] - order[..., 0]) * rng.uniform(10, 60), 0, 1)[..., None]
    shades = _ramp(rng, rng.uniform(0, 1, len(points)))[d.argmin(-1)]
    bulge = 1 - rng.uniform(0, 0.8) * _unit(order[..., 0])[..., None]
    return _finish(rng, edge * shades * bulge + (1 - edge) * _color(rng))


KINDS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    f.__name__: f for f in (noise, gratings, julia, attractor, shapes, limbs, strokes, text, cells)
}


def main() -> None:
    """Save a contact sheet with one row of images of each kind."""
    if len(sys.argv) != 2:
        sys.exit("usage: python pipelines/drawn_images.py SHEET.png")
    rng = np.random.default_rng(0)
    rows = [np.hstack([draw(rng, kind=kind) for _ in range(10)]) for kind in KINDS]
    Image.fromarray(np.vstack(rows)).save(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
