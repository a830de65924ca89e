"""The 1,000 classes of ImageNet."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["imagenet_classes"]


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return the WordNet id and name of each class, in the order of the outputs of pretrained networks.

    Returns
    -------
    tuple of 1,000 (str, str)
        The classes of the ImageNet Large Scale Visual Recognition Challenge 2012, ordered by WordNet id. A name is
        WordNet's first noun for the id; two are longer, so that no two classes share a name: "crane bird" (beside
        the machine "crane") and "maillot tank suit" (beside "maillot").

    Examples
    --------
    >>> imagenet_classes()[281]
    ('n02123045', 'tabby')
    """
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    return tuple((wordnet_id, name) for wordnet_id, _, name in (line.partition(" ") for line in lines))
