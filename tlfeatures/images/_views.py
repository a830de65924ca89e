"""Views of an image: its mirror image, and crops."""

from __future__ import annotations

from PIL import Image

from tlfeatures._image_options import VIEWS
from tlfeatures.errors import UnknownNameError

__all__ = ["list_views", "take_view"]

_CROPS = {
    "center": (0.5, 0.5),
    "top left": (0, 0),
    "top right": (1, 0),
    "bottom left": (0, 1),
    "bottom right": (1, 1),
}
_SHARE = 0.875  # side of a crop relative to that of the image: 224 / 256, common in evaluations of networks
_MIRRORED = "mirrored"


def list_views(views: str | None) -> list[str]:
    """Return the names of the views of a kind; the first, "", is the image itself.

    >>> list_views(None), list_views("flip")
    ([''], ['', 'mirrored'])
    >>> len(list_views("crops")), len(list_views("flip+crops"))
    (6, 12)

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    if views is None:
        return [""]
    if views not in VIEWS:
        raise UnknownNameError.of("kind of views", views, VIEWS, parameter="views")
    names = ["", *_CROPS] if "crops" in views else [""]
    return names + [f"{name} {_MIRRORED}".strip() for name in names] if "flip" in views else names


def take_view(im: Image.Image, view: str) -> Image.Image:
    """Return a view of an image; ``im`` itself for the view ""."""
    crop, is_mirrored = view.removesuffix(_MIRRORED).strip(), view.endswith(_MIRRORED)
    if crop:
        sides = [max(1, round(_SHARE * side)) for side in im.size]
        left, top = (
            round(share * (side - part))
            for share, side, part in zip(_CROPS[crop], im.size, sides, strict=True)
        )
        im = im.crop((left, top, left + sides[0], top + sides[1]))
    return im.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else im
