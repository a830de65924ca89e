"""`weights`: download, list, verify and import the weights files of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from tlfeatures._text import count
from tlfeatures.cli._groups import Options, expand_options, option
from tlfeatures.cli._options import Json
from tlfeatures.cli._terminal import show_json, show_table, show_text, warn

__all__ = ["weights"]

weights = typer.Typer(
    help="Download, list, verify and import the ImageNet weights of networks, for machines with and without a "
    "connection. Keras looks for the files in $KERAS_HOME/models, by default ~/.keras/models."
)

_STATES = {
    "digest matches": "it has the published digest",
    "loads": "no digest is published; it loads into the network",
}

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Networks; by default all.", show_default=False),
]


class FetchOptions(Options):
    """Which files are downloaded, and how."""

    top: bool = option(False, "Download the file with the fully connected layers, which `classify` needs.")
    image_size: int | None = option(
        None, "Side in pixels, if the network has separate weights for some sizes.", parse=int, min=1
    )
    mirror: str | None = option(
        None,
        "Address of a folder that has the files under the same names: https, http or file.",
        metavar="URL",
    )
    timeout: float = option(30.0, "Time without data after which the download fails.", metavar="SECONDS")


@weights.command()
@expand_options
def fetch(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Networks, as listed by `tlfeatures models`.")
    ],
    options: FetchOptions,
    as_json: Json = False,
) -> None:
    """Download weights and check their digests; an interrupted download is resumed by the same command.

    Proxies are read from http_proxy, https_proxy and no_proxy.
    """
    from tlfeatures.networks import find_network
    from tlfeatures.weights import fetch_weights

    for name in names:
        find_network(name)  # raises an error for an unknown name before the first download
    _show_each(names, lambda name: fetch_weights(name, **options.parameters()), "downloaded", as_json)


@weights.command("list")
def list_files(
    names: Names = None,
    all_files: Annotated[
        bool,
        typer.Option("--all", metavar="", help="Also list absent files, and those for other image sizes."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the weights files on this machine, and compare their digests; with NAME, also list absent files."""
    from tlfeatures.weights import list_weights

    rows = list_weights(names or None, all_sizes=all_files or not names)
    selected = rows if names or all_files else [row for row in rows if row["path"] is not None]
    _show_rows(selected, as_json)
    if not as_json:
        n_present = sum(row["path"] is not None and row["url"] is not None for row in rows)
        show_text(
            f"\n{count(n_present, 'file')} on this machine. `tlfeatures weights fetch NAME` downloads others; "
            "--all lists them."
        )


@weights.command()
def verify(names: Names = None, as_json: Json = False) -> int:
    """Check the weights files on this machine by their published digests; the exit code is 1 if any is damaged.

    Files without a published digest are loaded into the network. A network that is named must have a file.
    """
    from tlfeatures.networks import find_network
    from tlfeatures.weights import verify_weights

    rows = verify_weights(names or None)
    _show_rows(rows, as_json)
    present = {row["model"] for row in rows}
    absent = [name for name in names or () if find_network(name).name not in present]
    for row in rows:
        if row["state"] == "damaged":
            warn(f"{row['problem']} `tlfeatures weights fetch {row['model']}` replaces it.")
    for name in absent:
        warn(f"no weights of {name!r} are on this machine; `tlfeatures weights fetch {name}` downloads them.")
    return int(bool(absent) or any(row["state"] == "damaged" for row in rows))


class ImportOptions(Options):
    """Network of the files, if it cannot be recognized."""

    model: str | None = option(
        None, "The network, if it cannot be recognized.", "--model", "-m", metavar="NAME"
    )
    image_size: int | None = option(
        None,
        "Side in pixels that the weights are for, if the file name does not contain it.",
        parse=int,
        min=1,
    )


@weights.command("import")
@expand_options
def import_files(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Weights files that were downloaded elsewhere.")
    ],
    options: ImportOptions,
    as_json: Json = False,
) -> None:
    """Copy weights files to the folder where Keras looks for them, for machines without a connection.

    The network is recognized by the digest, name or arrays of the file, and the file is verified.
    """
    from tlfeatures.weights import import_weights

    _show_each(files, lambda file: import_weights(file, **options.parameters()), "imported", as_json)


def _show_each(
    items: Sequence[str], make_row: Callable[[str], dict[str, Any]], action: str, as_json: bool
) -> None:
    """Download or import files one after another, and show each; with JSON, those before an error too."""
    rows = []
    try:
        for item in items:
            row = make_row(item)
            rows.append(row)
            if not as_json:
                show_text(
                    f"{row['model']}: {action if row[action] else 'already here'}, {row['path']} "
                    f"({decimal(row['bytes'])}, licence {row['licence']}); {_STATES[row['state']]}."
                )
    finally:
        if as_json and rows:
            show_json(rows)


def _show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json(rows)
    elif rows:
        show_table(
            {
                "model": row["model"],
                "top": row["top"],
                "pixels": row["image_size"],
                "file": row["file"],
                "size": "" if row["bytes"] is None else decimal(row["bytes"]),
                "folder": "" if row["path"] is None else str(row["path"].parent),
                "state": row["state"],
            }
            for row in rows
        )
