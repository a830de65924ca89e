"""Images of explanations: the map over the image, and the nearest training images of each class beside it."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tlfeatures._files import write_file
from tlfeatures.images import Decoder, Images

if TYPE_CHECKING:
    from tlfeatures.trust._explain_result import Explanations

__all__ = ["draw_explanation", "project", "save_explanations"]

_COLORS = "viridis"  # perceptually uniform
_OPACITY = 0.6
_SIDE, _SMALL, _GAP, _LINE = 240, 76, 8, 18  # pixels
_MAX_CLASSES, _COLUMN = 6, 3  # largest number of rows of neighbors: in total, and in one column
_MAX_LABEL = 20  # characters of a class
_MAX_NAME = 80  # characters of the image's name and the class in a file name, half of them for the class


def project(values: np.ndarray, box: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """Interpolate a map over an image.

    Parameters
    ----------
    values : ndarray of shape (h, w)
    box : tuple of float
        Left, top, right and bottom of the map, in pixels of the image. It may extend beyond the image.
    size : (int, int)
        Width and height of the image.

    Returns
    -------
    ndarray of float32, shape (height, width)
        NaN outside the box.
    """
    result = np.full(size[::-1], np.nan, np.float32)
    edges, parts = [], []
    for start, end, length, n in zip(box[:2], box[2:], size, values.shape[::-1], strict=True):
        first, last = round(max(0.0, start)), max(round(min(length, end)), round(max(0.0, start)) + 1)
        scale = n / (end - start)
        edges.append((first, last))
        parts.append((max(0.0, (first - start) * scale), min(float(n), (last - start) * scale)))
    (left, right), (top, bottom) = edges
    region = (parts[0][0], parts[1][0], parts[0][1], parts[1][1])
    image = Image.fromarray(values.astype(np.float32))
    resized = image.resize((right - left, bottom - top), Image.Resampling.BICUBIC, region)
    result[top:bottom, left:right] = np.asarray(resized)[: size[1] - top, : size[0] - left]
    return result


def save_explanations(result: Explanations, folder: Any) -> list[str]:
    """Draw all maps into PNG files; return their paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    digits, paths = len(str(int(result.rows.max()))), []
    for i, row in enumerate(result.rows.tolist()):
        buffer = io.BytesIO()
        draw_explanation(result, i).save(buffer, "PNG")
        *label, value = result.describe(i)
        label = [_clean(text)[: _MAX_NAME // 2] for text in label]
        stem = _clean(Path(result.names[i]).stem)[: _MAX_NAME - sum(map(len, label))]
        path = Path(folder) / "_".join([f"{row:0{digits}}", stem, *label, f"{value}.png"])
        write_file(path, buffer.getvalue(), sync=False)
        paths.append(str(path))
    return paths


def _clean(text: str) -> str:
    """Replace characters that file names may not have."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")


def draw_explanation(result: Explanations, i: int) -> Image.Image:
    """Draw the image, its map with a color bar and, if there are training images, the nearest of each class."""
    size = result.images.size(int(result.rows[i]))
    shown = _fit(size, _SIDE)
    original = _read(result.images, int(result.rows[i]), result.decoder, shown)
    values = result.maps[i] + result.constants[i]
    scale = shown[0] / size[0], shown[1] / size[1]
    box = tuple(edge * scale[j % 2] for j, edge in enumerate(result.decoder.find_box(size)))
    overlay = _blend(original, project(values, box, shown), values.min(), values.max())
    rows = _list_rows(result, i)
    per_row = max((len(images) for _, images in rows), default=0)
    column_width, n_columns = max(_SIDE, per_row * (_SMALL + _GAP)), -(-len(rows) // _COLUMN)
    panel = 2 * (_SIDE + _GAP) + 70  # left edge of the neighbors
    height = max(shown[1] + 2 * _LINE, min(len(rows), _COLUMN) * (_SMALL + _LINE)) + 2 * _GAP
    width = panel + n_columns * column_width + _GAP
    canvas = Image.new("RGB", (width, height), "white")
    drawing, font = ImageDraw.Draw(canvas), _load_font()
    top = _GAP + _LINE
    drawing.text((_GAP, _GAP // 2), "  ".join(result.describe(i)), "black", font)
    canvas.paste(original, (_GAP, top))
    canvas.paste(overlay, (2 * _GAP + _SIDE, top))
    caption = f"{result.value}, {result.method}"
    drawing.text((_GAP, top + shown[1] + 2), caption, "dimgray", font)
    _draw_bar(canvas, (3 * _GAP + 2 * _SIDE, top), shown[1], values.min(), values.max())
    for k, (text, images) in enumerate(rows):
        left = panel + k // _COLUMN * column_width
        y = _GAP // 2 + k % _COLUMN * (_SMALL + _LINE)
        drawing.text((left, y), text, "black", font)
        for j, image in enumerate(images):
            canvas.paste(image, (left + j * (_SMALL + _GAP), y + _LINE))
    return canvas


def _blend(image: Image.Image, values: np.ndarray, low: float, high: float) -> Image.Image:
    """Blend the colors of a map with a grey version of the image; where the map is NaN, the image is darker."""
    grey = np.asarray(image.convert("L").convert("RGB"), float)
    inside = np.isfinite(values)
    colors = _color(np.where(inside, values, low), low, high)
    blended = np.where(inside[..., None], _OPACITY * colors + (1 - _OPACITY) * grey, 0.5 * grey)
    return Image.fromarray(blended.round().astype(np.uint8))


def _color(values: np.ndarray, low: float, high: float) -> np.ndarray:
    import matplotlib

    shares = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return matplotlib.colormaps[_COLORS](shares, bytes=True)[..., :3]


def _draw_bar(canvas: Image.Image, corner: tuple[int, int], height: int, low: float, high: float) -> None:
    """Draw the scale of the colors, with labels at its ends and, if it is between them, at zero."""
    left, top = corner
    values = np.linspace(high, low, height)[:, None].repeat(14, axis=1)
    canvas.paste(Image.fromarray(_color(values, low, high)), corner)
    drawing, font = ImageDraw.Draw(canvas), _load_font()
    marks = {top: high, top + height - 14: low}
    if low < 0 < high and 0.15 < high / (high - low) < 0.85:
        marks[top + round(high / (high - low) * height) - 7] = 0.0
    for y, value in marks.items():
        drawing.text((left + 18, y), f"{value:+.3g}" if value else "0", "black", font)


def _list_rows(result: Explanations, i: int) -> list[tuple[str, list[Image.Image]]]:
    """Return a caption and the nearest training images of each class, the nearest class first."""
    if result.neighbors is None or result.training_images is None:
        return []
    table = result.neighbors[result.neighbors["row"] == result.rows[i]]
    if result.classes is None:
        rows = [("nearest training images", table)]
    else:
        groups = sorted(table.groupby("label", sort=False), key=lambda group: group[1]["distance"].min())
        rows = [(f"nearest {str(label)[:_MAX_LABEL]}", group) for label, group in groups[:_MAX_CLASSES]]
    return [
        (
            f"{text}, distance {group['distance'].min():.3g}",
            [
                _read(result.training_images, row, result.decoder, None)
                for row in group["training_row"].tolist()
            ],
        )
        for text, group in rows
    ]


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return a size with the same proportions whose longer side is ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _read(images: Images, row: int, decoder: Decoder, shown: tuple[int, int] | None) -> Image.Image:
    """Read an upright image and resize it, by default to the size of a thumbnail."""
    width, height = shown or _fit(images.size(row), _SMALL)
    whole = dataclasses.replace(decoder, image_size=(height, width), resize="stretch")
    return Image.fromarray(images.decode_with_note(row, whole)[1])


def _load_font() -> Any:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), 12)
