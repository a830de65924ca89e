"""The embedding store: rows by recipe and image content, in immutable HDF5 segments."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._inputs import has_lost_slash, is_url
from tlfeatures._objects import redact
from tlfeatures._params import check_parameter, integer
from tlfeatures.errors import InvalidParameterError, MissingRowsError
from tlfeatures.fingerprints import canonical_json, recipe_digest
from tlfeatures.store import _maintenance
from tlfeatures.store._batches import WINDOW_BYTES, StoredRows, cut_batches
from tlfeatures.store._disk import default_root
from tlfeatures.store._gather import gather
from tlfeatures.store._index import RETRIES, Folder, open_folder
from tlfeatures.store._row_locks import RowLocks
from tlfeatures.store._segment import check_keys, check_rows, check_width, encode, rows_per_segment
from tlfeatures.store._store_maintenance import StoreMaintenance
from tlfeatures.store._store_sidecars import StoreSidecars
from tlfeatures.store._table import first_rows
from tlfeatures.store._writer import StoreWriter

__all__ = ["EmbeddingStore", "StoreWriter"]


class EmbeddingStore(StoreMaintenance, StoreSidecars):
    """Embeddings on disk, safe for any number of readers and writers.

    Parameters
    ----------
    root : path, optional
        The folder; by default ``$TLFEATURES_CACHE``, or else ``tlfeatures`` in the user's cache folder.
        It is created by the first write.

    Attributes
    ----------
    root : pathlib.Path
        The folder, absolute.

    Notes
    -----
    The object has no state but its path, which is what pickle saves. A row is returned
    bit-identical or is missing. Damaged files are quarantined with one `StoreWarning` and never raise.
    A recipe is a JSON object with everything that determines the embedding; it must contain
    ``"width"``, the length d of a row, and ``"dtype": "float32"``. A key is the digest of an image's
    content, 16 bytes. The store does not compute embeddings and does not interpret keys.
    On two cores it read 310,000 rows of width 512 per second and verified their files (``python benchmarks/store.py``);
    it opened ten million rows in 0.3 s (``--rows 10000000``).

    Examples
    --------
    >>> import tempfile
    >>> recipe = {"network": "toy", "width": 2, "dtype": "float32"}
    >>> keys = np.arange(48, dtype="uint8").reshape(3, 16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = EmbeddingStore(folder)
    ...     store.publish(recipe, keys[:2], np.ones((2, 2), "float32"))
    ...     rows, is_stored = store.get(recipe, keys)
    >>> is_stored
    array([ True,  True, False])
    >>> rows
    array([[ 1.,  1.],
           [ 1.,  1.],
           [nan, nan]], dtype=float32)
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        root = default_root() if root is None else root
        if is_url(root) or has_lost_slash(root):
            raise InvalidParameterError(
                f"`cache` must be a local folder; got {redact(os.fspath(root))!r}. A store in object storage is copied "
                "with `tlfeatures cache pull` and `tlfeatures cache push`.",
                "cache",
            )
        self.root = Path(os.path.abspath(os.path.expanduser(os.fspath(root))))

    @classmethod
    def resolve(cls, cache: str | os.PathLike[str] | EmbeddingStore | None) -> EmbeddingStore | None:
        """Return the store of a ``cache`` parameter: "auto", a path, a store, or None for no store.

        Parameters
        ----------
        cache : "auto", str, path, EmbeddingStore or None
            "auto" is ``$TLFEATURES_CACHE``, or the user's cache folder.

        Raises
        ------
        TypeError
            For anything else.
        """
        if cache is None or isinstance(cache, cls):
            return cache
        if isinstance(cache, str) and cache == "auto":
            return cls()
        if isinstance(cache, (str, os.PathLike)) and os.fspath(cache):
            return cls(cache)
        raise TypeError(
            f"`cache` must be 'auto', the path of a folder, an EmbeddingStore, or None for no store; got {cache!r} of "
            f"type {type(cache).__name__}."
        )

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (str(self.root),)

    def __eq__(self, other: object) -> bool:
        return self.root == other.root if isinstance(other, EmbeddingStore) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.root)

    def contains(self, recipe: Mapping[str, Any], keys: np.ndarray) -> np.ndarray:
        """Return whether each key has a row: uint8 (n, 16) -> bool (n,).

        Rows are verified when `get` reads them, so a damaged row may count as stored here.

        Parameters
        ----------
        recipe : mapping
            What determines the values of the rows.
        keys : uint8 array (n, 16)
            Digests of the images.

        Returns
        -------
        ndarray of bool, shape (n,)
            Whether the store has a row of each key.
        """
        keys, _ = check_keys(keys), check_width(recipe)
        return self._folder(recipe).refresh().find(keys)[:, 0] >= 0

    def get(
        self, recipe: Mapping[str, Any], keys: np.ndarray, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read rows in the order of the keys.

        Parameters
        ----------
        recipe : mapping
            The recipe that the rows were computed under.
        keys : uint8 array (n, 16)
            In any order, duplicates allowed.
        out : float32 array (n, d), optional
            Filled in place; may be a slice of columns of a larger array.

        Returns
        -------
        rows : float32 array (n, d)
            ``out`` if it is passed. Rows that are not in the store are NaN.
        is_stored : bool array (n,)
        """
        keys, width = check_keys(keys), check_width(recipe)
        if out is None:
            out = np.empty((len(keys), width), np.float32)
        elif out.shape != (len(keys), width) or out.dtype != np.float32:
            raise ValueError(
                f"`out` must be float32 of shape {(len(keys), width)}; got {out.dtype} of shape {out.shape}."
            )
        folder, is_stored = self._folder(recipe), np.zeros(len(keys), bool)
        todo = np.arange(len(keys))
        for _ in range(RETRIES):
            index = folder.refresh()
            unreadable = gather(folder, index, keys, todo, out, is_stored)
            if not unreadable:
                break
            folder.forget(unreadable)  # removed or damaged: another segment may have the rows
            todo = todo[~is_stored[todo]]
        out[~is_stored] = np.nan
        if is_stored.any():
            _maintenance.touch(folder.path)
        return out, is_stored

    def batches(
        self,
        recipe: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        keys: np.ndarray,
        batch_size: int = 4096,
        random_state: int | np.random.Generator | None = None,
        *,
        window: int | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the rows of all keys, each once, in bounded memory.

        Parameters
        ----------
        recipe : mapping or sequence of mappings
            The rows of several recipes are concatenated in their order.
        keys : uint8 array (n, 16)
            In any order, duplicates allowed; all must be in the store, see `contains`.
        batch_size : int
            Number of rows in a batch; the last one may be smaller.
        random_state : int, Generator or None
            An integer or generator shuffles the rows. None reads them in the order of the files, which is the fastest;
            for the order of the keys, call `get` with some keys at a time.
        window : int or None
            Number of rows that are in memory at a time and are shuffled among each other, at least ``batch_size``. A
            window is filled with blocks of up to 128 kB of consecutive rows, which are drawn at random from all
            segments, so that batches are mixed although the images of a class were stored together. None means 64 MB.

        Yields
        ------
        positions : int array (m,)
            Row i of the batch is that of ``keys[positions[i]]``.
        rows : float32 array (m, d)

        Raises
        ------
        MissingRowsError
            If a key has no row; at the call, or in the iteration if a file was damaged or deleted after the call. Also
            a ``KeyError``.

        Notes
        -----
        A thread reads the next window in the meantime, so up to two windows are in memory, and about 50 bytes for each
        key. A segment is verified when it is first read in this process, and again if the size or a time of its file
        has changed. The order depends on ``random_state``, the keys and the segments in the store.
        """
        check_parameter("batch_size", batch_size, [integer(minimum=1)])
        check_parameter("window", window, [None, integer(minimum=1)])
        recipes = [recipe] if isinstance(recipe, Mapping) else list(recipe)
        if not recipes:
            raise InvalidParameterError(
                "`recipe` must be a recipe or a list of recipes; got an empty list.", "recipe"
            )
        keys, widths = check_keys(keys), [check_width(each) for each in recipes]
        parts = [StoredRows(self._folder(r), keys, w) for r, w in zip(recipes, widths, strict=True)]
        for part in parts:
            self._check_stored(part.is_stored)
        for part in parts:
            _maintenance.touch(part.folder.path)
        window = window or WINDOW_BYTES // (4 * sum(widths))
        window = max(1, window // batch_size) * batch_size
        rng = None if random_state is None else np.random.default_rng(random_state)

        def read_again(part: int, keys: np.ndarray) -> np.ndarray:
            rows, is_stored = self.get(recipes[part], keys)
            self._check_stored(is_stored)
            return rows

        return cut_batches(parts, batch_size, window, rng, read_again)

    def _check_stored(self, is_stored: np.ndarray) -> None:
        if not is_stored.all():
            raise MissingRowsError(
                f"{np.count_nonzero(~is_stored):,} of {len(is_stored):,} keys have no row under this recipe in "
                f"{self.root}. Compute their embeddings first, or pass only keys[store.contains(recipe, keys)]."
            )

    def publish(self, recipe: Mapping[str, Any], keys: np.ndarray, features: np.ndarray) -> None:
        """Store rows: ``keys`` uint8 (n, 16), ``features`` float32 (n, d); durable on return.

        The first of duplicate keys is stored. Rows of NaN are stored too: leave out those of unreadable images.

        Parameters
        ----------
        recipe : mapping
            What determines the values of the rows.
        keys : uint8 array (n, 16)
            Digests of the images.
        features : float32 array (n, d)
            Embeddings of the images.

        Raises
        ------
        ValueError
            If the arrays do not fit the recipe.
        StoreError
            When the disk is full, read-only or fails; no partial file is left.
        """
        keys, features = check_rows(recipe, keys, features)
        if not len(keys):
            return
        first = first_rows(keys)
        if len(first) < len(keys):
            keys, features = keys[first], features[first]
        text = canonical_json(dict(recipe))
        folder = self._path(recipe)
        step = rows_per_segment(features.shape[1])
        with self._errors("write to"):
            _maintenance.publish_recipe(folder, text)
            for i in range(0, len(keys), step):
                _maintenance.publish_segment(folder, encode(text, keys[i : i + step], features[i : i + step]))

    def writer(
        self, recipes: Mapping[str, Any] | Sequence[Mapping[str, Any]], on_failure: str = "warn"
    ) -> StoreWriter:
        """Return a `StoreWriter` for one recipe, or for several recipes that are filled together.

        Parameters
        ----------
        recipes : mapping or sequence of mappings
            One recipe, or several whose rows are computed together.
        on_failure : {"warn", "raise"}, default="warn"
            What happens if the disk is full or fails.

        Returns
        -------
        StoreWriter
            A context manager, which stores rows in batches.
        """
        return StoreWriter(self, [recipes] if isinstance(recipes, Mapping) else list(recipes), on_failure)

    def row_locks(self, recipes: Sequence[Mapping[str, Any]]) -> RowLocks:
        """Return locks on rows, so that processes that run at the same time compute each image once.

        This only avoids duplicate work; correctness does not depend on it.

        Parameters
        ----------
        recipes : sequence of mappings
            What determines the values of the rows, of several recipes that are filled together.

        Returns
        -------
        RowLocks
            The locks; none is taken yet.
        """
        return RowLocks([os.path.join(self._path(recipe), "lock") for recipe in recipes])

    def units_folder(self, recipe: Mapping[str, Any]) -> str:
        """Return the folder of the work units of jobs under a recipe; it may not exist yet.

        Parameters
        ----------
        recipe : mapping
            What determines the values of the rows.

        Returns
        -------
        str
            Path of the folder.
        """
        return os.path.join(self._path(recipe), "units")

    def _path(self, recipe: Mapping[str, Any]) -> str:
        return os.path.join(self._v1, recipe_digest(dict(recipe)))

    def _folder(self, recipe: Mapping[str, Any]) -> Folder:
        return open_folder(self._path(recipe))
