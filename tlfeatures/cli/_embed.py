"""`embed`: write the embeddings of a source to a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import show_json, show_text


@dataclass(frozen=True)
class EmbedSource(opt.TrainingSource):
    """Images of all splits, with or without labels."""

    split: str = option("all", "all, train, val or test.")


@dataclass(frozen=True)
class EmbedOutput(opt.OutputOptions):
    """Output of `embed`."""

    output: str = option(
        ..., "FILE.h5, FILE.parquet, or FILE.npy with FILE.manifest.csv.", "-o", metavar="FILE"
    )
    strict: bool = option(False, opt.STRICT)

    def check(self) -> None:
        """Raise an error if an output file cannot be written, or is not a file of this command."""
        from tlfeatures.embedding_files import SUFFIXES, is_embedding_file, list_files

        check_output(self.output, SUFFIXES, self.force, is_embedding_file)
        for file in list_files(self.output)[1:]:
            check_output(file, (".csv",), self.force, is_embedding_file)


@expand_options
def embed(
    source: EmbedSource, files: EmbedOutput, network: opt.EmbeddingOptions, compute: opt.ComputeOptions
) -> None:
    """Write the embeddings of a source into a file, one row for each image, in the order of the source.

    The file also contains the path, digest and label of each image. An unreadable image has a row of NaN and an
    error. Rows are written to the store as they are computed: an interrupted run resumes, and a second run computes
    nothing.
    """
    from tlfeatures.embedding_files import write_embeddings

    files.check()
    images = source.read()
    cnn = opt.make_cnn(network, compute)
    result = write_embeddings(files.output, cnn, images, on_failure="raise")
    n, width = result.features.shape
    errors = report_unreadable(images.paths, result.errors, "has a row of NaN", "have rows of NaN")
    if files.as_json:
        about = {"features": width, "layers": cnn.layers_, "output": files.output, "errors": errors}
        show_json(dataclasses.asdict(result.counts) | about)
    else:
        show_text(f"{result.counts}.")
        show_text(f"{files.output}: {n:,} rows of {width:,} features ({', '.join(cnn.layers_)}).")
    if files.strict and errors:
        raise typer.Exit(1)
