"""`models` and `layers`: list the networks and their layers."""

from __future__ import annotations

from tlfeatures._text import count
from tlfeatures.cli._groups import Options, argument, option
from tlfeatures.cli._options import Json
from tlfeatures.cli._terminal import show_json, show_table, show_text


def models(as_json: Json = False) -> None:
    """List the networks, and whether their pretrained weights are on this machine."""
    from tlfeatures.networks import network_table

    rows = network_table()
    if as_json:
        show_json(rows)
        return
    local = ["local" if row["weights"] or row["weights_with_top"] else "" for row in rows]
    show_table(
        {
            "model": row["model"],
            "pixels": row["image_size"],
            "standard layers": len(row["taps"]),
            "first": row["taps"][0],
            "last": row["taps"][-1],
            "weights": weights,
            "parameters": f"{row['parameters'] / 1e6:,.0f} M" if "parameters" in row else "",
            "licence": row["licence"],
        }
        for row, weights in zip(rows, local, strict=True)
    )
    show_text(
        f"\n{count(len(rows), 'network')}; the weights of {local.count('local')} are on this machine. "
        "Others are downloaded on first use. `tlfeatures layers MODEL` lists the layers of a network. Those with a "
        'number of parameters are presets of KerasHub: pip install "tlfeatures[hub]".'
    )


class LayersOptions(Options):
    """The network and the layers to list."""

    model: str = argument("MODEL", "Name of a network, or a .keras file.")
    all_layers: bool = option(False, "List all other layers too.", "--all")
    image_size: str | None = option(
        None, "Side of a square, or height x width, in pixels; by default the network's."
    )
    as_json: Json = False


def layers(options: LayersOptions) -> None:
    """List the layers of a network: the standard layers, which `select` tries, and the fully connected ones.

    The width is the number of features after average pooling.
    """
    from tlfeatures.networks import layer_table

    rows = layer_table(options.model, options.parameters()["image_size"])
    if options.as_json:
        show_json(rows)
        return
    selected = [row for row in rows if row["standard"] or row["fully_connected"]]
    if options.all_layers or not any(
        row["standard"] for row in rows
    ):  # custom models have no standard layers
        selected = rows
    columns = ("layer", "type", "shape", "width", "standard")
    show_table(
        {name: row[name] for name in columns} | {"shape": _format_shape(row["shape"])} for row in selected
    )
    if len(selected) < len(rows):
        show_text(f"\n{len(selected)} of {count(len(rows), 'layer')}; use --all to list all of them.")


def _format_shape(shape: tuple[int | None, ...]) -> str:
    return " x ".join("?" if n is None else str(n) for n in shape)
