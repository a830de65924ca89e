"""Faults of image files, and properties of the files that might predict the label."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas
from PIL import Image

from tlfeatures.errors import ImageReadError
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Decoder, ImageProperties, Images, describe_images, find_faults

__all__ = ["examine_files", "make_thumbnails"]

_THUMBNAIL = 160  # pixels
_FAULT_ORDER = (
    "unreadable", "uniform", "nearly black", "nearly white", "low range", "bit depth", "blurry", "tiny",
    "odd aspect", "EXIF rotation",
)  # fmt: skip


def examine_files(
    images: Images | None,
    cnn: Any,
    n_jobs: int | None,
    names: Sequence[str],
    errors: Mapping[int, str],
    notes: list[str],
) -> tuple[pandas.DataFrame, dict[str, pandas.DataFrame]]:
    """Find the faults of all images, and the properties of their files that might predict the label.

    Parameters
    ----------
    images : Images or None
    cnn : CNNFeatures or other object
        The images are decoded with its options.
    n_jobs : int or None
    names : sequence of str
    errors : mapping of int to str
        Reasons of the rows that cannot be used.
    notes : list of str
        A message is appended for each fault that most images have, instead of listing these images.

    Returns
    -------
    faults : DataFrame
        See :attr:`tlfeatures.results.AuditResult.faults`.
    predictors : dict of str to DataFrame of n rows
    """
    faults = [(row, names[row], "unreadable", reason) for row, reason in errors.items()]
    predictors: dict[str, pandas.DataFrame] = {}
    if images is not None:
        properties = describe_images(images, None if n_jobs == -1 else n_jobs, **_get_decoding(cnn))
        faults += _list_faults(properties, names, errors, notes)
        predictors = _list_predictors(properties, errors)
    faults.sort(key=lambda fault: (_FAULT_ORDER.index(fault[2]), fault[0]))
    table = pandas.DataFrame(faults, columns=["row", "image", "fault", "reason"], dtype=object)
    return table.astype({"row": int}), predictors


def _list_faults(
    properties: Sequence[ImageProperties | ImageReadError],
    names: Sequence[str],
    errors: Mapping[int, str],
    notes: list[str],
) -> list[tuple[int, str, str, str]]:
    faults = [
        (row, names[row], fault, reason)
        for row, one in enumerate(properties)
        if row not in errors
        for fault, reason in (
            [("unreadable", one.reason)] if isinstance(one, ImageReadError) else find_faults(one)
        )
    ]
    counts = Counter(fault for _, _, fault, _ in faults)
    n = len(names)
    frequent = {fault for fault, count in counts.items() if count > max(n / 2, 2)} - {"unreadable"}
    for fault in sorted(frequent):
        first = next(reason for _, _, name, reason in faults if name == fault)
        notes.append(
            f"{counts[fault]:,} of {n:,} images have the fault {fault!r} ({first}), so it is not listed for each."
        )
    return [fault for fault in faults if fault[2] not in frequent]


def _list_predictors(
    properties: Sequence[ImageProperties | ImageReadError], errors: Mapping[int, str]
) -> dict[str, pandas.DataFrame]:
    """Return columns that describe the files, by name of the predictor, if all readable images have them."""
    columns = {
        "image size": ["width", "height"],
        "file type": ["file_type"],
        "file size": ["file_size"],
        "color mode": ["mode"],
    }
    table = pandas.DataFrame(
        [
            {name: getattr(one, name, None) for names in columns.values() for name in names}
            for one in properties
        ]
    )
    unreadable = {row for row, one in enumerate(properties) if isinstance(one, ImageReadError)}
    complete = table.drop(index=list(unreadable.union(errors))).notna().all()
    return {
        name: table[parts].astype(float if name.endswith("size") else object)
        for name, parts in columns.items()
        if complete[parts].all()
    }


def _get_decoding(cnn: Any) -> dict[str, Any]:
    """Return the options of a CNNFeatures that change the values of pixels; none for other objects."""
    return {"max_value": cnn.max_value, "window": cnn.window} if isinstance(cnn, CNNFeatures) else {}


def make_thumbnails(images: Images, rows: Sequence[int], cnn: Any) -> dict[int, bytes]:
    """Return JPEG previews of some images, by row, decoded as ``cnn`` decodes them; unreadable ones are left out."""
    decoder = Decoder((_THUMBNAIL, _THUMBNAIL), "pad", **_get_decoding(cnn))
    thumbnails = {}
    for row in rows:
        with contextlib.suppress(ImageReadError):
            _, pixels, _ = images.decode_with_note(row, decoder)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
            thumbnails[row] = buffer.getvalue()
    return thumbnails
