"""Labels of some images of a source, from another source."""

from __future__ import annotations

import os

import numpy as np

from tlfeatures.errors import SourceError
from tlfeatures.sources._source import Source

__all__ = ["merge_labels"]


def merge_labels(images: Source, labelled: Source) -> Source:
    """Give the images of one source the labels of another, in which the same files have labels.

    Parameters
    ----------
    images : Source
        Image files; their own labels are not used.
    labelled : Source
        Image files with labels, such as a manifest of the images labelled so far.

    Returns
    -------
    Source
        The images of the first source, then the other images of the second. ``y`` is an object array, with None where
        an image has no label.

    Raises
    ------
    SourceError
        If a source contains arrays instead of files, or one file has several labels.

    Examples
    --------
    >>> images = Source(["a.jpg", "b.jpg"], None, None, None, ["a.jpg", "b.jpg"], "file")
    >>> labelled = Source(["./b.jpg"], np.array(["cat"]), None, None, ["b.jpg"], "manifest")
    >>> merge_labels(images, labelled).y.tolist()
    [None, 'cat']
    """
    for source in (images, labelled):
        if not isinstance(source.images, list):
            raise SourceError(
                f"Labels are matched by the paths of image files; {source.names[0]!r} is an image of an array. Write "
                "the images to files, or call tlfeatures.suggest in Python."
            )
    labels: dict[str, object] = {}
    for path, label in zip(labelled.images, labelled.get_labels().tolist(), strict=True):
        if labels.setdefault(os.path.realpath(path), label) != label:
            other = labels[os.path.realpath(path)]
            raise SourceError(
                f"{path!r} has the labels {other!r} and {label!r}; expected one for each image. Delete one of them."
            )
    paths = {os.path.realpath(path) for path in images.images}
    others = [i for i, path in enumerate(labelled.images) if os.path.realpath(path) not in paths]
    paths = [*images.images, *(labelled.images[i] for i in others)]
    y = np.empty(len(paths), object)
    y[:] = [labels.get(os.path.realpath(path)) for path in paths]
    return Source(paths, y, None, None, [*images.names, *(labelled.names[i] for i in others)], "file")
