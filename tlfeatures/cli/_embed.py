"""`embed`: write the embeddings of a source into one file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._extraction import Tally, extract_images, get_paths, report_unreadable
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._terminal import show_json, show_text

_SUFFIXES = (".h5", ".parquet", ".npy")


@dataclass(frozen=True)
class EmbedSource(opt.TrainingSource):
    """Images of all splits, with or without labels."""

    split: str = option("all", "all, train, val or test.", metavar="NAME")


@expand_options
def embed(
    source: EmbedSource,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="FILE.h5, FILE.parquet, or FILE.npy with FILE.manifest.csv.",
        ),
    ],
    network: opt.NetworkOptions,
    compute: opt.ComputeOptions,
    strict: opt.Strict = False,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Write the embeddings of a source into a file, one row for each image, in the order of the source.

    The file also contains the path, digest and label of each image. An unreadable image has a row of NaN and an
    error. Rows are written to the store as they are computed: an interrupted run resumes, and a second run computes
    nothing.
    """
    from tlfeatures.cli._outputs import check_output, write_features

    check_output(output, _SUFFIXES, force)
    images = source.read()
    cnn = opt.make_cnn(network, compute)
    cnn.fit(images.images)
    result = extract_images(cnn, images.images, on_failure="raise")
    paths, n = get_paths(images), len(images)
    manifest = {
        "path": paths,
        "digest": ["" if i in result.errors else key.tobytes().hex() for i, key in enumerate(result.keys)],
        "label": [None] * n if images.y is None else images.y.tolist(),
        "error": [result.errors.get(i, "") for i in range(n)],
    }
    manifest |= {
        name: values.tolist()
        for name, values in (("split", images.split), ("group", images.groups))
        if values is not None
    }
    write_features(
        output, manifest, result.features, cnn.get_feature_names_out(), _merge_recipes(cnn.recipes_)
    )
    tally = Tally.of(result)
    errors = report_unreadable(paths, result.errors, "and have a row of NaN")
    if as_json:
        show_json(
            {
                **dataclasses.asdict(tally),
                "features": result.features.shape[1],
                "layers": cnn.layers_,
                "output": output,
                "errors": errors,
            }
        )
    else:
        show_text(f"{tally}.")
        show_text(
            f"{output}: {n:,} rows of {result.features.shape[1]:,} features ({', '.join(cnn.layers_)})."
        )
    if strict and errors:
        raise typer.Exit(1)


def _merge_recipes(recipes: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the recipes of several layers: the common fields, and under ``columns`` the fields of each layer."""
    first = recipes[0]
    common = {key: first[key] for key in first if all(r.get(key) == first[key] for r in recipes)}
    varying = ("layer", "pooling", "width", "digest")
    return {
        **{k: v for k, v in common.items() if k not in varying},
        "columns": [{k: r[k] for k in varying} for r in recipes],
    }
