"""Digests of files: MD5, SHA-256, or the start of a SHA-256 digest, as they are published."""

from __future__ import annotations

import hashlib
import os
from typing import Any

__all__ = ["describe_digest", "hash_file", "hasher"]


def hasher(digest: str) -> Any:
    """Return a new hash of the kind of ``digest``."""
    return hashlib.md5(usedforsecurity=False) if len(digest) == 32 else hashlib.sha256()


def hash_file(path: str | os.PathLike[str], digest: str) -> str:
    """Return the digest of a file, of the kind of ``digest``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hasher(digest)).hexdigest()


def describe_digest(expected: str, actual: str) -> str:
    """Return a phrase for a digest other than the expected one.

    >>> describe_digest("7be5be79", "00112233445566778899")
    'SHA-256 digest is 00112233..., but its name says 7be5be79'
    """
    if len(expected) < 32:
        return f"SHA-256 digest is {actual[: len(expected)]}..., but its name says {expected}"
    kind = "MD5" if len(expected) == 32 else "SHA-256"
    return f"{kind} digest is {actual}, but {expected} is published"
