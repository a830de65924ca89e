"""The methods of a store that keep small JSON objects beside the embeddings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlfeatures.fingerprints import canonical_json, recipe_digest
from tlfeatures.store._disk import publish_file
from tlfeatures.store._maintenance import MALFORMED, read_sidecar

__all__ = ["StoreSidecars"]


class StoreSidecars:
    """Methods of `EmbeddingStore` for small JSON objects, such as the layers of a network and their widths."""

    root: Path

    def get_sidecar(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a small JSON object stored under a JSON key; None if it is absent or damaged.

        Parameters
        ----------
        key : mapping
            What the object describes, such as a network.

        Returns
        -------
        dict or None
            The object, or None.
        """
        path = self._sidecar(key)
        with contextlib.suppress(OSError, *MALFORMED):
            return read_sidecar(path)["value"]
        return None

    def put_sidecar(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Store a small JSON object under a JSON key; errors of the file system are ignored.

        Parameters
        ----------
        key : mapping
            What the object describes, such as a network.
        value : mapping
            The object; it must consist of JSON types.
        """
        key, value = dict(key), dict(value)
        content = canonical_json({"digest": recipe_digest([key, value]), "key": key, "value": value})
        with contextlib.suppress(OSError):
            publish_file(self._sidecar(key), content)

    def _sidecar(self, key: Mapping[str, Any]) -> str:
        return os.path.join(self.root, "v1", "networks", f"{recipe_digest(dict(key))}.json")
