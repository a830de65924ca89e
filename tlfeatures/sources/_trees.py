"""Trees of folders on disk or in object storage, listed folder by folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tlfeatures._object_digests import remember_listing
from tlfeatures._objects import is_object, join_uri, list_objects, read_head, redact
from tlfeatures.errors import ObjectStorageError, SourceError, TransientReadError
from tlfeatures.sources._formats import HEAD_BYTES, accepts_file, accepts_name, has_image_prefix

__all__ = ["Listing", "Tree", "open_tree"]

_THREADS = 16


class Listing(NamedTuple):
    """Names of the folders, of the images or clips, and of the other files in a folder, in arbitrary order."""

    folders: list[str]
    files: list[str]
    others: list[str]


class Tree:
    """A folder on disk."""

    def __init__(self, root: str, kind: str) -> None:
        self.root, self.kind = root, kind
        self.name = repr(root)  # for messages

    def list_folder(self, folder: str) -> Listing:
        """List a folder, as a path relative to the root, "" for the root.

        Raises
        ------
        SourceError
            If it cannot be listed.
        """
        listing = Listing([], [], [])
        path = os.path.join(self.root, folder) if folder else self.root
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if not entry.name.startswith("."):
                            listing.folders.append(entry.name)
                    elif not entry.name.startswith(".") and accepts_file(entry.path, self.kind):
                        listing.files.append(entry.name)
                    else:
                        listing.others.append(entry.name)
        except OSError as e:
            raise SourceError(f"Cannot list the folder {path!r}: {e.strerror or e}.") from e
        return listing

    def identify(self, folder: str) -> str:
        """Return a text that is the same for a folder and for symbolic links to it."""
        return os.path.realpath(os.path.join(self.root, folder))

    def locate(self, name: str) -> str:
        """Return the path of a file by its path relative to the root."""
        return os.path.join(self.root, name)

    def subtree(self, folder: str) -> Tree:
        """Return the tree of a folder in the root."""
        return Tree(os.path.join(self.root, folder), self.kind)


class ObjectTree(Tree):
    """A folder in object storage, listed as a whole; folders are the parts of names between slashes."""

    def __init__(self, root: str, kind: str, listings: dict[str, Listing]) -> None:
        super().__init__(root, kind)
        self.name, self.listings = repr(redact(root)), listings

    def list_folder(self, folder: str) -> Listing:
        return self.listings.get(folder, Listing([], [], []))

    def identify(self, folder: str) -> str:
        return folder

    def locate(self, name: str) -> str:
        return join_uri(self.root, name)

    def subtree(self, folder: str) -> ObjectTree:
        prefix = f"{folder}/"
        listings = {
            name.removeprefix(prefix): listing
            for name, listing in self.listings.items()
            if name.startswith(prefix)
        }
        listings[""] = self.list_folder(folder)
        return ObjectTree(join_uri(self.root, folder), self.kind, listings)


def open_tree(root: str, kind: str) -> Tree:
    """Return the tree of a folder on disk or, for a URI, in object storage."""
    return _list_objects(root, kind) if is_object(root) else Tree(root, kind)


def _list_objects(root: str, kind: str) -> ObjectTree:
    try:
        objects = {name: info for name, info in list_objects(root) if info.size}  # folder markers are empty
    except (ObjectStorageError, TransientReadError):
        raise
    except OSError as e:
        raise SourceError(f"Cannot list {redact(root)!r}: {e.strerror or e}.") from e
    if not objects:
        raise SourceError(f"No folder or bucket {redact(root)!r}, or it is empty. Check the name.")
    remember_listing((join_uri(root, name) for name in objects), objects.values())
    accepted = _accept(root, list(objects), kind)
    listings = {"": Listing([], [], [])}

    def open_listing(folder: str) -> Listing:
        if folder not in listings:
            parent, _, name = folder.rpartition("/")
            if not name.startswith("."):
                open_listing(parent).folders.append(name)
            listings[folder] = Listing([], [], [])
        return listings[folder]

    for path in objects:
        folder, _, name = path.rpartition("/")
        listing = open_listing(folder)
        (listing.files if path in accepted else listing.others).append(name)
    return ObjectTree(root, kind, listings)


def _accept(root: str, names: list[str], kind: str) -> set[str]:
    """Return the objects that are images or clips; if the name does not show it, the first bytes are read."""

    def accepts_content(name: str) -> bool:
        try:
            return has_image_prefix(read_head(join_uri(root, name), HEAD_BYTES))
        except FileNotFoundError:  # deleted since it was listed
            return False

    visible = [name for name in names if not f"/{name}".count("/.")]
    by_name = {name: accepts_name(name, kind) for name in visible}
    accepted = {name for name, is_accepted in by_name.items() if is_accepted}
    unclear = [name for name, is_accepted in by_name.items() if is_accepted is None]
    if unclear:
        with ThreadPoolExecutor(_THREADS, "tlfeatures-list") as pool:
            accepted |= {
                name
                for name, is_image in zip(unclear, pool.map(accepts_content, unclear), strict=True)
                if is_image
            }
    return accepted
