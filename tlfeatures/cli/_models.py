"""`models` and `layers`: list the networks and their layers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tlfeatures.cli._options import ImageSize, Json
from tlfeatures.cli._parse import parse_image_size
from tlfeatures.cli._terminal import count, show_json, show_table, show_text


def models(as_json: Json = False) -> None:
    """List the networks, and whether their pretrained weights are available locally."""
    from tlfeatures.networks import NETWORKS, find_weights

    rows = []
    for spec in NETWORKS.values():
        size = (spec.image_size, spec.image_size)
        rows.append(
            {
                "model": spec.name,
                "image_size": spec.image_size,
                "taps": list(spec.taps),
                "licence": spec.licence,
                "weights": find_weights(spec, top=False, image_size=size),
                "weights_with_top": find_weights(spec, top=True, image_size=size),
            }
        )
    if as_json:
        show_json(rows)
        return
    show_table(
        ("model", "pixels", "taps", "first", "last", "weights", "licence"),
        [
            (
                row["model"],
                row["image_size"],
                len(row["taps"]),
                row["taps"][0],
                row["taps"][-1],
                "local" if row["weights"] or row["weights_with_top"] else "",
                row["licence"],
            )
            for row in rows
        ],
    )
    n_local = sum(1 for row in rows if row["weights"] or row["weights_with_top"])
    show_text(
        f"\n{count(len(rows), 'network')}; the weights of {n_local} are available locally. "
        "Keras downloads others on first use. "
        "`tlfeatures layers MODEL` lists the layers of a network."
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
