"""Objects in object storage by URI: read, list, write; failures as the built-in errors of files."""

from __future__ import annotations

import errno
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from tlfeatures._files import read_with_retries
from tlfeatures.errors import ForkedProcessError, MissingDependencyError, ObjectStorageError

__all__ = [
    "SCHEMES",
    "ObjectInfo",
    "is_object",
    "join_uri",
    "list_objects",
    "read_head",
    "read_object",
    "redact",
    "stat_object",
    "write_object",
]

SCHEMES = ("s3", "gs", "az", "https", "http", "file")
_URI = re.compile(rf"({'|'.join(SCHEMES)})://", re.IGNORECASE)
_SECRET = re.compile(r"sig|token|secret|password|credential|key|auth|policy", re.IGNORECASE)
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with temporary credentials also AWS_SESSION_TOKEN), "
    "AWS_REGION and, for a server other than AWS, AWS_ENDPOINT_URL; AWS_SKIP_SIGNATURE=true reads public buckets "
    "without credentials. S3 also answers 403 for missing objects if you may not list the bucket.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the path of a key file; GOOGLE_SKIP_SIGNATURE=true reads public "
    "buckets.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN.",
}
_CREDENTIALS["http"] = _CREDENTIALS["https"] = (
    "Pass a URL that can be read without a login, such as a signed one."
)
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL",),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_TIMEOUTS = {"timeout": "120s", "connect_timeout": "10s"}
_CHUNK = 1000  # objects in one response of S3
_SETTINGS = ("AWS_", "AZURE_", "GOOGLE_")
_INVALID_KEY = "has an empty part, '.' or '..' between slashes, which cannot be read: rename the object"
_FRESH_SECONDS = 2.0  # a file that changed more recently may change again with the same times

_is_in_use = _is_forked = False
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Size of an object in bytes, and the change stamp of its content; ``etag`` is empty if there is none."""

    size: int
    etag: str


def is_object(path: Any) -> bool:
    """Whether a path is the URI of an object that can be read.

    >>> is_object("s3://bucket/cat.jpg"), is_object("C:/cat.jpg"), is_object("ftp://host/cat.jpg")
    (True, False, False)
    """
    return isinstance(path, str) and _URI.match(path) is not None


def redact(path: str) -> str:
    """Return a URI without its user name, password and signature; other paths are returned unchanged.

    >>> redact("https://me:secret@host/cat.jpg?X-Amz-Signature=abc"), redact("https://host/cat.jpg?size=2")
    ('https://host/cat.jpg?...', 'https://host/cat.jpg?size=2')
    """
    if not is_object(path):
        return path
    scheme, _, rest = path.partition("://")
    host, slash, key = rest.partition("/")
    host = host.rpartition("@")[2]
    if scheme.lower() in ("http", "https") and "?" in host + key:
        name, _, query = (host + slash + key).partition("?")
        if any(_SECRET.search(part.partition("=")[0]) for part in query.split("&")):
            return f"{scheme}://{name}?..."
    return f"{scheme}://{host}{slash}{key}"


def join_uri(folder: str, name: str) -> str:
    """Return the URI of an object by its name relative to a folder.

    >>> join_uri("s3://bucket/pets/", "cat 1.jpg"), join_uri("file:///pets", "cat 1.jpg")
    ('s3://bucket/pets/cat 1.jpg', 'file:///pets/cat%201.jpg')
    """
    is_url = folder.lower().startswith(("file:", "http"))
    return f"{folder.rstrip('/')}/{quote(name) if is_url else name}"


def read_object(uri: str, max_bytes: int | None = None) -> tuple[bytes, ObjectInfo]:
    """Read an object.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ObjectStorageError
        If access is denied or impossible, which concerns more than this object.
    TransientReadError
        If the storage fails repeatedly.
    OSError
        If the object cannot be read for another reason, such as more than ``max_bytes``.
    """

    def read(obstore: Any, store: Any, key: str) -> tuple[bytes, ObjectInfo]:
        result = obstore.get(store, key)
        size = result.meta["size"]
        if max_bytes is not None and size > max_bytes:
            raise OSError(errno.EFBIG, f"the object has {size:,} bytes; at most {max_bytes:,} are read")
        return bytes(result.bytes()), _describe(uri, result.meta)

    return _call(uri, read)


def read_head(uri: str, n_bytes: int) -> bytes:
    """Read the first bytes of an object that is not empty; errors are those of `read_object`."""
    return _call(uri, lambda obstore, store, key: bytes(obstore.get_range(store, key, start=0, end=n_bytes)))


def stat_object(uri: str) -> ObjectInfo:
    """Return size and change stamp of an object without reading it; errors are those of `read_object`."""
    return _call(uri, lambda obstore, store, key: _describe(uri, obstore.head(store, key)))


def write_object(uri: str, content: bytes) -> None:
    """Write an object, which replaces one of the same name at once; errors are those of `read_object`."""
    _call(uri, lambda obstore, store, key: obstore.put(store, key, content, use_multipart=False))


def list_objects(uri: str) -> Iterator[tuple[str, ObjectInfo]]:
    """List the objects of a folder or bucket at any depth: names relative to it, and their sizes and change stamps.

    Objects whose names end with a slash, which some programs write for empty folders, are left out. After an error the
    listing continues where it stopped.

    Raises
    ------
    ObjectStorageError, TransientReadError, OSError
        As `read_object` does; also if the storage cannot be listed, such as a web server.
    """
    scheme, prefix = _scheme(uri), _split(uri)[1]
    if scheme in ("http", "https"):
        raise _storage_error(
            uri, "web servers do not list their files. Pass a manifest with the URL of each image."
        )
    prefix = prefix.rstrip("/")
    start = len(prefix) + bool(prefix)
    last: str | None = None
    chunks: Iterator[Any] | None = None

    def read_chunk(obstore: Any, store: Any, key: str) -> Any:
        nonlocal chunks
        if chunks is None:
            offset = {} if last is None else {"offset": last}
            chunks = iter(obstore.list(store, prefix or None, chunk_size=_CHUNK, **offset))
        try:
            return next(chunks, None)
        except BaseException:
            chunks = None
            raise

    while (chunk := _call(uri, read_chunk)) is not None:
        for meta in chunk:
            if len(meta["path"]) > start:
                yield meta["path"][start:], _describe(uri, meta)
        if scheme != "file" and chunk:  # local folders are not listed in order
            last = chunk[-1]["path"]


def _describe(uri: str, meta: Any) -> ObjectInfo:
    etag = meta["e_tag"] or ""
    if etag and _scheme(uri) == "file" and time.time() - meta["last_modified"].timestamp() < _FRESH_SECONDS:
        etag = ""
    return ObjectInfo(meta["size"], etag)


def _call(uri: str, function: Callable[[Any, Any, str], T]) -> T:
    """Return ``function(obstore, store, key)``, repeated while the storage fails."""

    def attempt() -> T:
        obstore = _import_obstore()
        try:
            base, key = _split(uri)
            store = _open(base, _read_settings())
            try:
                return function(obstore, store, key)
            except obstore.exceptions.BaseError as error:
                if "invalid utf-8" not in str(error):
                    raise
                obstore.head(store, key)  # raises an error with the status, because its answer has no content
                raise
        except (OSError, ValueError, obstore.exceptions.BaseError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            converted = _convert_error(error, uri)
        raise converted  # without the cause: its text may have the signature of the URI

    return read_with_retries(attempt, redact(uri))


def _scheme(uri: str) -> str:
    return uri.partition("://")[0].lower()


def _split(uri: str) -> tuple[str, str]:
    """Split a URI into the URI of its store and the key of the object."""
    scheme, host = _scheme(uri), uri.partition("://")[2].partition("/")[0]
    if "@" in host:
        hint = _CREDENTIALS.get(scheme, "Leave them out.")
        raise _storage_error(uri, f"user names and passwords in URIs are not accepted. {hint}")
    key = uri.partition("://")[2].partition("/")[2]
    if scheme == "file":
        return "file://", unquote(key)
    if scheme not in ("http", "https"):
        return f"{scheme}://{host}", key
    parts = urlsplit(uri)
    key = unquote(parts.path.lstrip("/"))
    is_plain = not parts.query and quote(key) == parts.path.removeprefix("/")
    return (f"{scheme}://{host}", key) if is_plain else (uri.partition("#")[0], "")


def _read_settings() -> tuple[tuple[str, str], ...]:
    """Return the settings in the environment, so that changed ones take effect."""
    return tuple(item for item in os.environ.items() if item[0].startswith(_SETTINGS))


@functools.lru_cache(maxsize=64)
def _open(base: str, settings: tuple[tuple[str, str], ...]) -> Any:
    """Return the store of a bucket or server; threads share it."""
    from obstore import store

    scheme, _, bucket = base.partition("://")
    if scheme == "file":
        return store.LocalStore("/")
    endpoints = [base, *(dict(settings).get(name, "") for name in _ENDPOINTS.get(scheme, ()))]
    is_insecure = any(endpoint.startswith("http://") for endpoint in endpoints)
    options: dict[str, Any] = {
        "client_options": {**_TIMEOUTS, **({"allow_http": True} if is_insecure else {})},
        "retry_config": {"max_retries": 0},  # `read_with_retries` repeats
    }
    if scheme in ("http", "https"):
        return store.HTTPStore.from_url(base, **options)
    kinds = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
    return kinds[scheme](bucket, **options)


def _import_obstore() -> Any:
    global _is_in_use
    if _is_forked:
        raise ForkedProcessError(
            "Object storage cannot be read in a process that was forked after its parent read from it: the "
            "connections do not survive the fork. Start processes with 'spawn' or 'forkserver', or joblib's 'loky'."
        )
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise MissingDependencyError(
            "URIs such as s3://bucket/image.jpg need obstore, an optional package: pip install 'tlfeatures[cloud]'"
        ) from None
    _is_in_use = True
    return obstore


def _convert_error(error: Exception, uri: str) -> Exception:
    """Return the error of a request as one of those that `read_object` documents."""
    text, name, scheme = str(error).replace("retry_timeout", ""), redact(uri), _scheme(uri)
    status = re.search(r"status code: (\d{3})", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    number = int(status[1]) if status else 0
    answer = f"the server answered {number} {code[1] if code else ''}".rstrip()
    kind = type(error).__name__
    if re.search(r"NoSuchBucket|ContainerNotFound", text):
        return _storage_error(uri, "there is no such bucket. Check its name and the endpoint.")
    if isinstance(error, FileNotFoundError) or number in (404, 410):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if kind == "InvalidPathError" or isinstance(error, ValueError):
        key = re.search(r'[Pp]ath "([^"]+)"', text)
        return OSError(errno.EINVAL, f"the name {key[1] if key else name!r} {_INVALID_KEY}", name)
    if scheme == "file":
        denied = kind == "PermissionDeniedError"
        code_of_file = errno.EACCES if denied else errno.EIO
        return OSError(code_of_file, os.strerror(code_of_file), name)
    if number in (408, 425, 429) or number >= 500:
        return OSError(errno.EIO, answer, name)
    if "Content-Length" in text:
        return _storage_error(uri, "the server does not state the size of the object. Download it first.")
    if number or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return _storage_error(uri, f"{answer}. {_CREDENTIALS[scheme]}")
    if re.search(r"169\.254\.|metadata\.google|UnknownConfigurationKey|MissingAccount", text):
        return _storage_error(uri, f"there are no credentials. {_CREDENTIALS[scheme]}")
    if re.search(r"(Open|Read|Decode)Credentials|InvalidAccessKey|Sas(Key|Component)|InvalidKey", text):
        return _storage_error(uri, f"the credentials cannot be used. {_CREDENTIALS[scheme]}")
    if re.search(r"timed? ?out", text, re.IGNORECASE):
        return OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), name)
    return OSError(errno.ECONNRESET, "the connection failed", name)


def _storage_error(uri: str, reason: str) -> ObjectStorageError:
    return ObjectStorageError(errno.EACCES, f"cannot access {redact(uri)!r}: {reason}")


def _mark_fork() -> None:
    global _is_forked
    _is_forked = _is_in_use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)
