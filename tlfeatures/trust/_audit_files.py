"""Faults of image files, and what files alone tell about the label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from tlfeatures.errors import ImageReadError
from tlfeatures.features import CNNFeatures
from tlfeatures.images import ImageProperties, Images, describe_images, find_faults

__all__ = ["list_faults", "list_predictors", "read_properties"]

_FAULT_ORDER = (
    "unreadable", "uniform", "nearly black", "nearly white", "low range", "bit depth", "blurry", "tiny",
    "odd aspect", "EXIF rotation",
)  # fmt: skip


def read_properties(images: Images, cnn: Any, n_jobs: int | None) -> list[ImageProperties | ImageReadError]:
    """Read the properties of all images, as ``cnn`` decodes them, or the error of an image that cannot be read."""
    options = {}
    if isinstance(cnn, CNNFeatures):
        options = {"max_value": cnn.max_value, "window": cnn.window}
    return describe_images(images, None if n_jobs == -1 else n_jobs, **options)


def list_faults(
    properties: Sequence[ImageProperties | ImageReadError],
    names: Sequence[str],
    errors: Mapping[int, str],
    notes: list[str],
) -> list[tuple[int, str, str, str]]:
    """List row, name, fault and reason; a fault of most images is added to ``notes`` instead."""
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
    frequent = {fault for fault, count in counts.items() if count > max(n / 2, 2)}
    for fault in sorted(frequent):
        first = next(reason for _, _, name, reason in faults if name == fault)
        notes.append(
            f"{counts[fault]:,} of {n:,} images have the fault {fault!r} ({first}), so it is not listed for each."
        )
    kept = [fault for fault in faults if fault[2] not in frequent]
    return sorted(kept, key=lambda fault: (_FAULT_ORDER.index(fault[2]), fault[0]))


def list_predictors(
    properties: Sequence[ImageProperties | ImageReadError], errors: Mapping[int, str]
) -> dict[str, pandas.DataFrame]:
    """Return columns that describe the files, by name of the predictor, if all readable images have them."""
    columns = {
        "image size": ["width", "height"],
        "file type": ["file_type"],
        "file size": ["file_size"],
        "colour mode": ["mode"],
    }
    table = pandas.DataFrame(
        [
            {name: getattr(one, name, None) for names in columns.values() for name in names}
            for one in properties
        ]
    )
    complete = table.drop(index=list(errors)).notna().all()
    return {
        name: table[parts].astype(float if name.endswith("size") else object)
        for name, parts in columns.items()
        if complete[parts].all()
    }
