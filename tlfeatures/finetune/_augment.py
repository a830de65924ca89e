"""Augmentation: seeded random views of images.

Crops are computed with NumPy, all other augmentations with Keras layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from tlfeatures._keras import keras, untouched_random_state
from tlfeatures.errors import UnknownNameError

__all__ = ["Augmenter", "check_augment", "draw_augmentations"]

_SHORT = {
    "flip": "RandomFlip",
    "rotation": "RandomRotation",
    "zoom": "RandomZoom",
    "brightness": "RandomBrightness",
    "contrast": "RandomContrast",
    "saturation": "RandomSaturation",
    "hue": "RandomHue",
}
_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")
_COLORS = ("brightness", "contrast", "saturation", "hue")


def check_augment(augment: Any) -> dict[str, Any]:
    """Return the steps of an augmentation, in order; empty for None.

    Raises
    ------
    UnknownNameError
        If Keras has no such layer.
    ValueError
        If ``augment`` is not a mapping, or the layer of Keras rejects a value.
    """
    if augment is None:
        return {}
    if not isinstance(augment, Mapping):
        raise ValueError(
            f"augment={augment!r}; expected None or a dict such as {{'crop': 4, 'flip': 'horizontal', "
            "'rotation': 0.05, 'color': 0.2}, which may also name layers of Keras: {'RandomErasing': {'factor': 0.5}}."
        )
    steps: dict[str, Any] = {}
    for name, value in augment.items():
        if name in ("color", "crop") and (not isinstance(value, Real) or isinstance(value, bool)):
            raise ValueError(f"augment[{name!r}]={value!r}; expected a number.")
        if name == "color":
            strength = float(value)
            steps |= {f"color/{kind}": strength / 5 if kind == "hue" else strength for kind in _COLORS}
        elif name == "crop":
            if not float(value).is_integer() or value < 1:
                raise ValueError(
                    f"augment['crop']={value!r}; expected a number of pixels of padding, such as 4."
                )
            steps[name] = int(value)
        elif name == "flip" and not isinstance(value, Mapping) and value not in _FLIPS:
            raise ValueError(f"augment['flip']={value!r}; expected one of {', '.join(map(repr, _FLIPS))}.")
        elif name in _SHORT or name in (layers := _list_layers()):
            steps[name] = value
        else:
            raise UnknownNameError.of("augmentation", name, ["crop", "color", *_SHORT, *layers])
    for name, value in steps.items():
        if name != "crop":
            _make_layer(name, value)  # raises an error if Keras rejects the value
    return steps


class Augmenter:
    """Make random views of uint8 images; equal seeds give equal views.

    Parameters
    ----------
    augment : dict
        Names of augmentations with their strengths. "crop": pixels of padding before a random crop of the original
        size; "flip": "horizontal", "vertical" or "horizontal_and_vertical"; "rotation": fraction of a full turn;
        "zoom", "brightness", "contrast", "saturation", "hue": relative change; "color": brightness, contrast and
        saturation with this strength, and hue with a fifth of it. Other "Random..." layers of Keras are passed by their
        names, each with a dict of its arguments.

    Examples
    --------
    >>> X = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype="uint8")
    >>> views = Augmenter({"crop": 2})(X, seed=[0, 1])
    >>> views.shape, views.dtype, bool((views == Augmenter({"crop": 2})(X, seed=[0, 1])).all())
    ((2, 8, 8, 3), dtype('uint8'), True)
    """

    def __init__(self, augment: Any) -> None:
        self.steps = check_augment(augment)
        self._layers: list[Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __call__(self, batch: np.ndarray, seed: list[int]) -> np.ndarray:
        """Return a random view of each image of a batch, uint8 of shape (n, height, width, 3)."""
        if self._layers is None:
            self._layers = [_make_layer(n, value) for n, value in self.steps.items() if n != "crop"]
        rng = np.random.default_rng(seed)
        if pad := self.steps.get("crop"):
            batch = _crop(batch, pad, rng)
        if not self._layers:
            return batch
        x = batch.astype(np.float32)
        for layer in self._layers:
            for variable in layer.variables:
                if "seed_generator" in variable.path:
                    variable.assign(rng.integers(0, 2**32, variable.shape, dtype=np.uint32))
            x = layer(x, training=True)
            if x.shape != batch.shape:
                raise ValueError(
                    f"The augmentation {type(layer).__name__} changes the size of images from {batch.shape[1:3]} to "
                    f"{tuple(x.shape[1:3])}; expected views of the same size. Use a layer such as {{'crop': 4}}."
                )
        return np.clip(np.rint(keras().ops.convert_to_numpy(x)), 0, 255).astype(np.uint8)


def _list_layers() -> list[str]:
    return [name for name in dir(keras().layers) if name.startswith("Random")]


def _make_layer(name: str, value: Any) -> Any:
    kind = name.removeprefix("color/")
    layer_class = getattr(keras().layers, _SHORT.get(kind, kind))
    kwargs = dict(value) if isinstance(value, Mapping) else {"mode" if kind == "flip" else "factor": value}
    if kind == "zoom" and "factor" in kwargs:
        kwargs["height_factor"] = kwargs.pop("factor")
    if kind == "saturation" and isinstance(kwargs.get("factor"), Real):  # in Keras, 0.5 is no change
        kwargs["factor"] = (0.5 - kwargs["factor"] / 2, 0.5 + kwargs["factor"] / 2)
    try:
        with untouched_random_state():  # the seeds are set in every call
            return layer_class(**kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"augment[{name.split('/')[0]!r}]={value!r} is not valid for keras.layers.{layer_class.__name__}: {error}"
        ) from error


def _crop(batch: np.ndarray, pad: int, rng: np.random.Generator) -> np.ndarray:
    n, height, width, _ = batch.shape
    padded = np.pad(
        batch,
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
        mode="reflect" if pad < min(height, width) else "edge",
    )
    offsets = rng.integers(0, 2 * pad + 1, (n, 2))
    return np.stack(
        [p[i : i + height, j : j + width] for p, (i, j) in zip(padded, offsets.tolist(), strict=True)]
    )


def draw_augmentations(images: np.ndarray, augment: Any, seed: int = 0, n_views: int = 7) -> bytes:
    """Draw each image and random views of it in one row of a PNG image.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, h, w, 3)
    augment : dict
        Augmentations, as :class:`Augmenter` takes them.
    seed : int, default=0
    n_views : int, default=7
        Number of views of each image.

    Returns
    -------
    bytes
        Content of a PNG file.
    """
    import io

    from PIL import Image

    augmenter = Augmenter(augment)
    columns = [images, *(augmenter(images, [seed, view]) for view in range(n_views))]
    n, height, width, _ = images.shape
    gap = 4
    sheet = np.full((n * (height + gap) - gap, len(columns) * (width + gap) - gap, 3), 255, np.uint8)
    for j, column in enumerate(columns):
        for i, image in enumerate(column):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    return buffer.getvalue()
