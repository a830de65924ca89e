"""`cache`: look after the embedding store."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tlfeatures.cli._options import Json, parse_bytes
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, tell

if TYPE_CHECKING:
    from tlfeatures.store import EmbeddingStore

__all__ = ["cache"]

cache = typer.Typer(
    help="Look after the embedding store: PATH, or $TLFEATURES_CACHE, or tlfeatures in the user's cache folder."
)
Path = Annotated[
    str | None, typer.Argument(metavar="[PATH]", help="Folder of the store.", show_default=False)
]


@cache.command()
def info(path: Path = None, as_json: Json = False) -> None:
    """Say what the store holds."""
    report = _open(path).info()
    if as_json:
        show_json(report)
        return
    recipes = sorted(report["recipes"], key=lambda r: -r["last_used"])
    rows = sum(r["unique_rows"] for r in recipes)
    tell(
        f"{report['root']}: {count(rows, 'row')} of {count(len(recipes), 'recipe')}, {_size(report['bytes'])}"
    )
    if recipes:
        columns = (
            "model",
            "layer",
            "pooling",
            "pixels",
            "rows",
            "unique",
            "size",
            "segments",
            "last used",
            "digest",
        )
        show_table(columns, [_row(r) for r in recipes])
    aside = sum(r["quarantined"] for r in recipes)
    if aside:
        tell(f"{count(aside, 'damaged file')} set aside; `tlfeatures cache clear` removes them too.")


@cache.command()
def verify(path: Path = None, as_json: Json = False) -> None:
    """Read everything and check it; exit code 1 if anything is damaged."""
    damage = _open(path).verify()
    if as_json:
        show_json(damage)
    elif damage:
        show_table(("damaged file", "reason"), [(d["path"], d["reason"]) for d in damage])
        tell(f"\n{count(len(damage), 'damaged file')}: set aside and computed again at the next use.")
    else:
        tell("All is well.")
    if damage:
        raise typer.Exit(1)


@cache.command()
def compact(path: Path = None, as_json: Json = False) -> None:
    """Merge small segments and drop duplicate rows; safe beside other processes."""
    done = _open(path).compact()
    if as_json:
        show_json(done)
        return
    tell(
        f"{count(done['segments_before'], 'segment')} of {_size(done['bytes_before'])} became "
        f"{done['segments_after']:,} of {_size(done['bytes_after'])}."
    )


@cache.command()
def prune(
    max_bytes: Annotated[str, typer.Option(metavar="SIZE", help="What may stay, such as 500MB or 2GB.")],
    path: Path = None,
    as_json: Json = False,
) -> None:
    """Delete the recipes that have not been used for longest, until the store is small enough."""
    done = _open(path).prune(parse_bytes(max_bytes))
    if as_json:
        show_json(done)
        return
    tell(
        f"Removed {count(done['removed_recipes'], 'recipe')} of {_size(done['removed_bytes'])}; "
        f"{_size(done['bytes'])} are left."
    )


@cache.command()
def clear(
    path: Path = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete what tlfeatures keeps in the store, and nothing else."""
    store = _open(path)
    if not yes:
        report = store.info()
        typer.confirm(
            f"Delete the embeddings in {report['root']} ({_size(report['bytes'])})? They can be computed again.",
            abort=True,
            err=True,
        )
    done = store.clear()
    if as_json:
        show_json(done)
    else:
        tell(f"Removed {count(done['removed_files'], 'file')} of {_size(done['removed_bytes'])}.")


def _open(path: str | None) -> EmbeddingStore:
    from tlfeatures.store import EmbeddingStore

    store = EmbeddingStore(path)
    if os.path.exists(store.root) and not store.root.is_dir():
        raise BadArgument(f"{str(store.root)!r} is a file; expected the folder of a store.")
    if path is not None and not store.root.exists():
        raise BadArgument(f"There is no folder {str(store.root)!r}.")
    return store


def _row(entry: dict) -> tuple:
    recipe = entry["recipe"] or {}
    size = recipe.get("image_size") or ()
    when = datetime.fromtimestamp(entry["last_used"]).strftime("%Y-%m-%d %H:%M") if entry["last_used"] else ""
    return (
        recipe.get("network"),
        recipe.get("layer"),
        recipe.get("pooling"),
        "x".join(map(str, size)),
        entry["rows"],
        entry["unique_rows"],
        _size(entry["bytes"]),
        entry["segments"],
        when,
        entry["digest"][:8],
    )


def _size(n: float) -> str:
    """Bytes for people.

    >>> _size(999), _size(1234567)
    ('999 bytes', '1.2 MB')
    """
    if n < 1000:
        return f"{n:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        n /= 1000
        if n < 1000 or unit == "GB":
            break
    return f"{n:.1f} {unit}"
