"""`models` and `layers`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tlfeatures.cli.options import ImageSize, Json, parse_image_size
from tlfeatures.cli.terminal import count, show_json, show_table, tell


def models(as_json: Json = False) -> None:
    """List the networks, and whether their pretrained weights are on this machine."""
    from tlfeatures.networks import NETWORKS, find_weights

    found = []
    for spec in NETWORKS.values():
        size = (spec.image_size, spec.image_size)
        found.append(
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
        show_json(found)
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
                "here" if row["weights"] or row["weights_with_top"] else "",
                row["licence"],
            )
            for row in found
        ],
    )
    here = sum(1 for row in found if row["weights"] or row["weights_with_top"])
    tell(
        f"\n{count(len(found), 'network')}; the weights of {here} are here, Keras fetches others on first use. "
        "`tlfeatures layers MODEL` lists what can be tapped."
    )


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Network, or .keras file.")],
    every: Annotated[bool, typer.Option("--all", help="Every layer that can be tapped.")] = False,
    image_size: ImageSize = None,
    as_json: Json = False,
) -> None:
    """List the layers of a network: the standard taps and the fully connected ones, or all.

    Width is that of the embedding after average pooling.
    """
    from tlfeatures.networks import layer_table

    table = layer_table(model, parse_image_size(image_size))
    rows = [
        {**row, "width": row["shape"][-1] if row["shape"] else None, "fully_connected": _is_connected(row)}
        for row in table
    ]
    some = [row for row in rows if row["standard"] or row["fully_connected"]]
    if as_json:
        show_json(rows)
        return
    if not any(row["standard"] for row in rows):
        every = True  # a file of the user's own has no standard taps
    show_table(
        ("layer", "type", "shape", "width", "standard"),
        [
            (row["layer"], row["type"], _shape(row["shape"]), row["width"], row["standard"])
            for row in (rows if every else some)
        ],
    )
    if not every and len(some) < len(rows):
        tell(f"\n{len(some)} of {count(len(rows), 'layer')}; --all lists every one.")


def _is_connected(row: dict[str, Any]) -> bool:
    return row["type"] == "Dense" or row["layer"] == "predictions"


def _shape(shape: tuple[int | None, ...]) -> str:
    return " x ".join("?" if n is None else str(n) for n in shape)
