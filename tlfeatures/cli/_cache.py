"""`cache`: inspect, verify, compact, prune, clear and copy the embedding store."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from tlfeatures._progress import show_bytes
from tlfeatures._text import count
from tlfeatures.cli._groups import BadArgument
from tlfeatures.cli._options import Json
from tlfeatures.cli._terminal import show_json, show_table, show_text, warn_of_list

if TYPE_CHECKING:
    from tlfeatures.store import EmbeddingStore

__all__ = ["cache"]

cache = typer.Typer(
    help="Inspect, clean and copy the embedding store in the folder PATH; by default $TLFEATURES_CACHE, or tlfeatures "
    "in the user's cache folder."
)
_URL_HELP = "The other store, such as s3://bucket/embeddings, or a folder."
Url = Annotated[str, typer.Argument(metavar="URL", help=_URL_HELP, show_default=False)]
Path = Annotated[str | None, typer.Argument(metavar="PATH", help="Folder of the store.", show_default=False)]


@cache.command()
def info(path: Path = None, as_json: Json = False) -> None:
    """List the recipes in the store (network, layer, pooling, image size, ...) with their numbers of rows and sizes."""
    report = _open(path).info()
    if as_json:
        show_json(report)
        return
    recipes = sorted(report["recipes"], key=lambda r: -r["last_used"])
    n_rows = sum(r["unique_rows"] for r in recipes)
    show_text(
        f"{report['root']}: {count(n_rows, 'row')} of {count(len(recipes), 'recipe')}, {decimal(report['bytes'])}"
    )
    if recipes:
        show_table(map(_make_row, recipes))
    if n_quarantined := sum(r["quarantined"] for r in recipes):
        show_text(
            f"{count(n_quarantined, 'damaged file')} in quarantine; `tlfeatures cache clear` removes them too."
        )


def _make_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table of recipes."""
    recipe, last_used = entry["recipe"] or {}, entry["last_used"]
    return {
        "model": recipe.get("network"),
        "layer": recipe.get("layer"),
        "pooling": recipe.get("pooling"),
        "pixels": "x".join(map(str, recipe.get("image_size") or ())),
        "rows": entry["rows"],
        "unique": entry["unique_rows"],
        "size": decimal(entry["bytes"]),
        "segments": entry["segments"],
        "last used": f"{datetime.fromtimestamp(last_used):%Y-%m-%d %H:%M}" if last_used else "",
        "digest": entry["digest"][:8],
    }


@cache.command()
def verify(path: Path = None, as_json: Json = False) -> int:
    """Read and check all files of the store; the exit code is 1 if any is damaged."""
    damage = _open(path).verify()
    if as_json:
        show_json(damage)
    elif damage:
        show_table({"damaged file": d["path"], "reason": d["reason"]} for d in damage)
        show_text(
            f"\n{count(len(damage), 'damaged file')} moved to quarantine; the next run computes these rows again."
        )
    else:
        show_text("No damaged files.")
    return int(bool(damage))


@cache.command()
def compact(path: Path = None, as_json: Json = False) -> None:
    """Merge small segments (files of rows) and drop duplicate rows; safe while other processes use the store."""
    result = _open(path).compact()
    segments, after = count(result["segments_before"], "segment"), result["segments_after"]
    text = f"{segments} of {decimal(result['bytes_before'])} became {after:,} of {decimal(result['bytes_after'])}."
    _show(result, text, as_json)


@cache.command()
def push(url: Url, path: Path = None, as_json: Json = False) -> int:
    """Copy the files that the store at URL lacks to it; run again after an interruption to copy the rest."""
    with show_bytes("push") as on_progress:
        result = _open(path).push(url, on_progress)
    return _show_transfer(result, as_json)


@cache.command()
def pull(url: Url, path: Path = None, as_json: Json = False) -> int:
    """Copy the files that the store in PATH lacks from the store at URL; each is verified before it is used."""
    with show_bytes("pull") as on_progress:
        result = _open(path, must_exist=False).pull(url, on_progress)
    return _show_transfer(result, as_json)


def _show_transfer(result: dict[str, Any], as_json: bool) -> int:
    """Print what was copied; return the exit code, 1 if any file is damaged."""
    damaged = result["damaged"]
    copied = f"Copied {count(result['files'], 'file')} of {decimal(result['bytes'])}"
    skipped = f"{count(result['skipped_files'], 'file')} of {decimal(result['skipped_bytes'])}"
    text = f"{copied}; {skipped} were already there."
    _show(result, text, as_json)
    if damaged:
        entries = [f"{entry['path']}: {entry['reason']}" for entry in damaged]
        warn_of_list(f"{count(len(damaged), 'damaged file')} not copied:", entries, 10)
    return int(bool(damaged))


@cache.command()
def prune(
    max_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Maximum size of the store, such as 500MB or 2GB.")
    ],
    path: Path = None,
    as_json: Json = False,
) -> None:
    """Delete the least recently used recipes until the store is small enough."""
    result = _open(path).prune(max_bytes)
    removed = f"{count(result['removed_recipes'], 'recipe')} of {decimal(result['removed_bytes'])}"
    text = f"Removed {removed}; {decimal(result['bytes'])} remain."
    _show(result, text, as_json)


@cache.command()
def clear(
    path: Path = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", metavar="", help="Do not ask for confirmation.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete all files of the store, and no other files."""
    store = _open(path)
    if not yes:
        report = store.info()
        question = f"Delete the embeddings in {report['root']} ({decimal(report['bytes'])})?"
        typer.confirm(question, abort=True, err=True)
    result = store.clear()
    text = f"Removed {count(result['removed_files'], 'file')} of {decimal(result['removed_bytes'])}."
    _show(result, text, as_json)


def _show(result: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        show_json(result)
    else:
        show_text(text)


def _open(path: str | None, must_exist: bool = True) -> EmbeddingStore:
    from tlfeatures.store import EmbeddingStore

    store = EmbeddingStore(path)
    if os.path.exists(store.root) and not store.root.is_dir():
        raise BadArgument(f"{str(store.root)!r} is a file; expected the folder of a store.")
    if must_exist and path is not None and not store.root.exists():
        raise BadArgument(f"The folder {str(store.root)!r} does not exist; expected the folder of a store.")
    return store
