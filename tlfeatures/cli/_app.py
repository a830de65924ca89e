"""The Typer application with all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from tlfeatures import __version__
from tlfeatures.cli._audit import audit
from tlfeatures.cli._cache import cache
from tlfeatures.cli._classify import classify
from tlfeatures.cli._demo import demo
from tlfeatures.cli._embed import embed
from tlfeatures.cli._evaluate import evaluate
from tlfeatures.cli._explain import explain
from tlfeatures.cli._export import export
from tlfeatures.cli._finetune import finetune
from tlfeatures.cli._fit import fit
from tlfeatures.cli._groups import expand_options
from tlfeatures.cli._info import info
from tlfeatures.cli._models import layers, models
from tlfeatures.cli._predict import predict
from tlfeatures.cli._select import select
from tlfeatures.cli._serve import serve, show_page
from tlfeatures.cli._suggest import suggest
from tlfeatures.cli._terminal import show_text
from tlfeatures.cli._weights import weights

__all__ = ["app"]

# plural names of options, which earlier versions of `select` had
_ALIASES = {
    "models": "model",
    "layers": "layer",
    "poolings": "pooling",
    "image-sizes": "image-size",
    "heads": "head",
}


app = typer.Typer(
    name="tlfeatures",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: _ALIASES.get(name, name),
    },
)


def _show_version(requested: bool) -> None:
    if requested:
        show_text(f"tlfeatures {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compute embeddings of images with frozen pretrained networks, for scikit-learn. Each embedding is computed
    once and stored.

    SOURCE is a folder with one subfolder per class, a folder with train/ and test/, a folder of images, a CSV
    or Parquet manifest, or an array in an HDF5 file (file.h5::dataset).
    """


for command in (
    *(models, layers, embed, fit, select, finetune, evaluate, predict, info, export),
    *(audit, explain, suggest, classify, serve),
):
    app.command()(expand_options(command))
app.command("app")(expand_options(show_page))
app.add_typer(cache, name="cache")
app.add_typer(weights, name="weights")
app.command()(demo)
