"""Computation of embeddings and their manifest, and writing them into a file in parts."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.distributed import EmbeddingRun, Engine
from tlfeatures.embedding_files._formats import FileLayout, open_writer
from tlfeatures.embedding_files._recognize import check_suffix
from tlfeatures.errors import LowContrastImagesWarning, UnreadableImagesWarning
from tlfeatures.extract import Extracted, ImageCounts, show_progress, warn_of_unreadable
from tlfeatures.features import CNNFeatures, check_fitted_recipes, embed
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Images, warn_of_low_contrast
from tlfeatures.sources import Source

__all__ = ["WrittenEmbeddings", "write_embeddings"]

_PART_ROWS = 8192
_PART_BYTES = 32 << 20


@dataclass
class WrittenEmbeddings:
    """Result of :func:`write_embeddings`.

    Attributes
    ----------
    shape : (int, int)
        Number of rows and features.
    errors : dict
        {row: reason} of the unreadable images.
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images; zeros where unreadable.
    computed : int
        Number of images that went through the network in this call.
    seconds : float
    low_contrast : dict
        {row: reason} of the images that span fewer than 16 of 256 levels, among those that were computed.
    """

    shape: tuple[int, int]
    errors: dict[int, str]
    keys: np.ndarray
    computed: int = 0
    seconds: float = 0.0
    low_contrast: dict[int, str] = field(default_factory=dict)

    @property
    def counts(self) -> ImageCounts:
        """Number of images by the source of their embeddings."""
        rows = np.setdiff1d(np.arange(len(self.keys)), list(self.errors)).astype(int)
        return ImageCounts.of(self.keys[rows], len(self.errors), self.computed, self.seconds)

    def add(self, start: int, part: Extracted) -> None:
        """Add the result for consecutive images, of which the first is image ``start``.

        Parameters
        ----------
        start : int
            Position of the first image.
        part : Extracted
            Result for the images from there on.
        """
        self.keys[start : start + len(part.keys)] = part.keys
        self.errors |= {start + row: reason for row, reason in part.errors.items()}
        self.low_contrast |= {start + row: reason for row, reason in part.low_contrast.items()}
        self.computed += part.computed
        self.seconds += part.seconds


def write_embeddings(
    path: str | os.PathLike[str], cnn: CNNFeatures, images: Any, engine: Engine | None = None, **options: Any
) -> WrittenEmbeddings:
    """Compute the embeddings of images, or read them from the store, and write them into a file.

    Parameters
    ----------
    path : path
        The suffix chooses the format: .h5 (datasets "features" and "feature_names", and one for each column of the
        manifest), .parquet (one column for each feature), or .npy, beside which NAME.manifest.csv is written.
    cnn : CNNFeatures
        Need not be fitted.
    images : Source or images
        A source, as :func:`~tlfeatures.sources.read_source` returns it, or images as CNNFeatures takes them.
    engine : Engine, optional
        Compute in work units, as :func:`~tlfeatures.embed_images` does; ``cnn`` must have a store.
    **options
        Options of :func:`~tlfeatures.extract.extract`, such as ``on_failure="raise"``; with an engine ``unit_size`` and
        ``verbose`` as in :func:`~tlfeatures.distributed.fill_store`.

    Returns
    -------
    WrittenEmbeddings
        Shape, reasons of unreadable images, digests, and numbers of images; not the embeddings themselves.

    Raises
    ------
    InvalidParameterError
        If the suffix is not .h5, .parquet or .npy.
    MissingDependencyError
        If a Parquet file is to be written, and pyarrow is not installed.
    OSError
        If the file cannot be written.

    Notes
    -----
    The file has one row for each image, in their order, with the columns path, digest, label and error of the
    manifest, and split and group if the source has them. An unreadable image has a row of NaN, and the reason as its
    error. A file is replaced when the new one is complete. Images are computed and written in parts of at most 8,192
    rows and 32 MB, so the memory does not depend on the size of the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "zeros.npy")
    >>> cnn = CNNFeatures("tiny", image_size=32, cache=None)
    >>> print(write_embeddings(path, cnn, np.zeros((2, 32, 32, 3), "uint8")).counts.duplicates)
    1
    >>> np.load(path).shape, path.with_name("zeros.manifest.csv").read_text().splitlines()[0]
    ((2, 320), 'path,digest,label,error')
    """
    suffix = check_suffix(path)
    source = images if isinstance(images, Source) else _make_source(images)
    cnn.fit(source.images)
    view, names = Images.of(source.images), cnn.get_feature_names_out()
    recipe = json.dumps(_merge_recipes(cnn.recipes_))
    result = WrittenEmbeddings((len(view), len(names)), {}, np.zeros((len(view), KEY_BYTES), np.uint8))
    columns = {"label": source.y, "split": source.split, "group": source.groups}
    columns = {name: values for name, values in columns.items() if values is not None}
    dtypes = dict.fromkeys(("path", "digest", "label", "error"))
    dtypes |= {name: _find_dtype(values) for name, values in columns.items()}
    with open_writer(path, suffix, FileLayout(len(view), names, recipe, dtypes)) as write:
        make_parts = _extract_parts if engine is None else partial(_read_units, engine)
        for rows, extracted in make_parts(cnn, view, result, options):
            errors, keys, n = extracted.errors, extracted.keys, len(extracted.keys)
            manifest = {
                "path": source.paths[rows],
                "digest": ["" if i in errors else keys[i].tobytes().hex() for i in range(n)],
                "label": [None] * n,
                "error": [errors.get(i, "") for i in range(n)],
            }
            write(manifest | {k: v[rows].tolist() for k, v in columns.items()}, extracted.features)
    return result


def _extract_parts(
    cnn: CNNFeatures, images: Images, result: WrittenEmbeddings, options: dict[str, Any]
) -> Iterator[tuple[slice, Extracted]]:
    """Extract consecutive rows and add them to the result; issue each warning once, at the end."""
    n, width = result.shape
    step = max(1, min(_PART_ROWS, _PART_BYTES // (4 * width)))
    messages: dict[str, type[Warning]] = {}
    options = {"verbose": cnn.verbose, "on_batch": None} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only the warnings of the parts are issued
        spec = check_fitted_recipes(cnn, images)
    with show_progress(options.pop("verbose"), spec) as bar:
        hooks = [hook for hook in (options.pop("on_batch"), bar) if hook is not None]
        for start in range(0, n, step):
            rows, before = slice(start, min(start + step, n)), result.computed + len(result.errors)

            def on_batch(done: int, total: int, others: int = before + n - rows.stop) -> None:
                for hook in hooks:
                    hook(done, others + total)

            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                part = images.take(np.arange(rows.start, rows.stop))
                extracted = embed(cnn, part, on_error="nan", on_batch=on_batch, verbose=0, **options)
            messages |= {str(warning.message): warning.category for warning in caught}
            result.add(start, extracted)
            yield rows, extracted
    for message, category in messages.items():
        if category not in (LowContrastImagesWarning, UnreadableImagesWarning):
            warn(message, category)
    low_contrast = result.low_contrast
    warn_of_low_contrast([images.name(row) for row in low_contrast], low_contrast.values(), n)
    warn_of_unreadable(images, result.errors)


def _read_units(
    engine: Engine, cnn: CNNFeatures, images: Images, result: WrittenEmbeddings, options: dict[str, Any]
) -> Iterator[tuple[slice, Extracted]]:
    """Compute and store all work units, then read them in order and add them to the result."""
    run = EmbeddingRun(images, cnn, engine, on_error="nan", **options)
    run.execute()
    for chunk in run.chunks():
        start = int(chunk.rows[0])
        errors = {row - start: reason for row, reason in chunk.errors.items()}
        extracted = Extracted(chunk.features, errors, chunk.keys)
        result.add(start, extracted)
        yield slice(start, start + len(chunk.rows)), extracted
    result.computed, result.seconds, result.low_contrast = run.computed, run.seconds, run.low_contrast


def _make_source(images: Any) -> Source:
    view = Images.of(images)
    return Source(view, None, None, None, [view.name(i) for i in range(len(view))], "array")


def _find_dtype(values: np.ndarray | None) -> np.dtype | None:
    """Return the dtype of a column of numbers; None for texts."""
    dtypes = []
    for i in range(0, 0 if values is None else len(values), _PART_ROWS):
        part = values[i : i + _PART_ROWS].tolist()
        if not all(isinstance(value, (int, float)) for value in part):
            return None
        dtypes.append(np.asarray(part).dtype)
    return np.result_type(*dtypes) if dtypes else None


def _merge_recipes(recipes: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the recipes of several layers: the common fields, and under ``columns`` the fields of each layer."""
    first = recipes[0]
    common = {key: first[key] for key in first if all(r.get(key) == first[key] for r in recipes)}
    varying = ("layer", "pooling", "width", "digest")
    return {
        **{k: v for k, v in common.items() if k not in varying},
        "columns": [{k: r[k] for k in varying} for r in recipes],
    }
