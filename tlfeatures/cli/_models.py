"""`models` and `layers`: list the networks and their layers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tlfeatures.cli._options import ImageSize, Json
from tlfeatures.cli._parse import parse_image_size
from tlfeatures.cli._terminal import count, show_json, show_table, show_text


def models(as_json: Json = False) -> None:
    """List the networks, and whether their pretrained weights are available locally."""
    from tlfeatures.networks import network_table

    rows = network_table()
    if as_json:
        show_json(rows)
        return
    local = ["local" if row["weights"] or row["weights_with_top"] else "" for row in rows]
    cells = [
        (
            row["model"],
            row["image_size"],
            len(row["taps"]),
            row["taps"][0],
            row["taps"][-1],
            each,
            row["licence"],
        )
        for row, each in zip(rows, local, strict=True)
    ]
    show_table(("model", "pixels", "taps", "first", "last", "weights", "licence"), cells)
    show_text(
        f"\n{count(len(rows), 'network')}; the weights of {local.count('local')} are available locally. Keras "
        "downloads others on first use. `tlfeatures layers MODEL` lists the layers of a network."
    )


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a network, or a .keras file.")],
    all_layers: Annotated[bool, typer.Option("--all", help="List all layers.")] = False,
    image_size: ImageSize = None,
    as_json: Json = False,
) -> None:
    """List the standard and fully connected layers of a network, or all of its layers.

    The width is the number of features after average pooling.
    """
    from tlfeatures.networks import layer_table

    table = layer_table(model, parse_image_size(image_size))
    rows = [
        {
            **row,
            "width": row["shape"][-1] if row["shape"] else None,
            "fully_connected": _is_fully_connected(row),
        }
        for row in table
    ]
    selected = [row for row in rows if row["standard"] or row["fully_connected"]]
    if as_json:
        show_json(rows)
        return
    if not any(row["standard"] for row in rows):
        all_layers = True  # custom models have no standard layers
    show_table(
        ("layer", "type", "shape", "width", "standard"),
        [
            (row["layer"], row["type"], _format_shape(row["shape"]), row["width"], row["standard"])
            for row in (rows if all_layers else selected)
        ],
    )
    if not all_layers and len(selected) < len(rows):
        show_text(f"\n{len(selected)} of {count(len(rows), 'layer')}; use --all to list all of them.")


def _is_fully_connected(row: dict[str, Any]) -> bool:
    return row["type"] == "Dense" or row["layer"] == "predictions"


def _format_shape(shape: tuple[int | None, ...]) -> str:
    return " x ".join("?" if n is None else str(n) for n in shape)
