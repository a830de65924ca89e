"""`embed`: write the embeddings of a source to a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import show_json, show_text

if TYPE_CHECKING:
    from tlfeatures.distributed import Engine
    from tlfeatures.embedding_files import WrittenEmbeddings


def _list_paths(source: str) -> list[str]:
    from tlfeatures.sources import read_source

    return list(read_source(source).paths)


class EmbedNetwork(opt.EmbeddingOptions):
    """The network, its input, its layers, views, and the images that quantize it."""

    calibration_images: str | None = option(
        None,
        "Folder or manifest of about 100 images of all classes, with which --precision int8 quantizes the network.",
        metavar="SOURCE",
        parse=_list_paths,
    )


class EmbedOutput(opt.OutputOptions):
    """Output of `embed`."""

    output: str | None = option(
        None,
        "FILE.h5, FILE.parquet, or FILE.npy with FILE.manifest.csv. Required without --shard.",
        "-o",
        metavar="FILE",
    )
    strict: bool = option(False, opt.STRICT)

    def check(self, shard: str | None) -> None:
        """Raise an error if an output file cannot be written, or is not a file of this command."""
        from tlfeatures.embedding_files import SUFFIXES, is_embedding_file, list_files

        if shard is not None:
            if self.output is not None:
                raise BadArgument(
                    "--shard only fills the store: leave out --output, and pass it to a last run without --shard."
                )
            return
        if self.output is None:
            raise BadArgument(
                "Missing option '--output': name a file, or pass --shard to only fill the store."
            )
        check_output(self.output, SUFFIXES, self.force, is_embedding_file)
        for file in list_files(self.output)[1:]:
            check_output(file, (".csv",), self.force, is_embedding_file)


class EngineOptions(opt.Options, panel="Several machines"):
    """Where the embeddings are computed."""

    engine: str = option("local", "local: this process; ray: the nodes of a Ray cluster.")
    address: str | None = option(
        None, "Address of a Ray cluster, or auto; by default $RAY_ADDRESS, or else this machine."
    )
    workers: int | None = option(
        None, "Number of Ray workers; by default as many as the resources of the cluster allow.", min=1
    )
    cpus_per_worker: float = option(
        1.0, "Number of CPUs of each Ray worker, and of its threads; may be a fraction.", min=0.01
    )
    gpus_per_worker: float = option(0.0, "Number of GPUs of each Ray worker; may be a fraction.", min=0.0)
    shard: str | None = option(
        None, "Compute only one part of the images, such as 3/16, and store it.", metavar="I/N"
    )
    unit_size: int = option(1024, "Number of images in a work unit.", min=1)

    def make(self) -> Engine:
        """Make the engine."""
        from tlfeatures.distributed import LocalEngine

        if self.engine == "ray":
            from tlfeatures.distributed import RayEngine

            return RayEngine(self.address, self.workers, self.cpus_per_worker, self.gpus_per_worker)
        if self.engine != "local":
            raise BadArgument(f"--engine must be local or ray; got {self.engine!r}.")
        if names := self.list_changed("address", "workers", "cpus_per_worker", "gpus_per_worker"):
            raise BadArgument(f"{names[0]} is an option of --engine ray.")
        return LocalEngine()


def embed(
    source: opt.AllImages,
    files: EmbedOutput,
    network: EmbedNetwork,
    compute: opt.FrozenOptions,
    engine: EngineOptions,
) -> int:
    """Write the embeddings of a source into a file, one row for each image, in the order of the source.

    The file also contains the path, digest and label of each image. An unreadable image has a row of NaN and an
    error. Rows are written to the store as they are computed: an interrupted run resumes, and a second run computes
    nothing.
    """
    from tlfeatures.distributed import EmbeddingRun, Shard
    from tlfeatures.embedding_files import write_embeddings

    files.check(engine.shard)
    runner = engine.make()
    images = source.read()
    cnn = opt.make_cnn(network, compute)
    result: EmbeddingRun | WrittenEmbeddings
    if engine.shard is not None:
        shard = Shard.parse(engine.shard)
        result = EmbeddingRun(images, cnn, runner, unit_size=engine.unit_size, shard=shard, on_error="nan")
        result.execute()
        about: dict[str, Any] = {"shard": str(shard)}
        text = f"Shard {shard}: {result.counts}."
    else:
        options: dict[str, Any] = {"on_failure": "raise"}
        if cnn.cache is not None or engine.engine != "local":
            options = {"engine": runner, "unit_size": engine.unit_size}
        result = write_embeddings(files.output, cnn, images, **options)
        n, width = result.shape
        about = {"features": width, "layers": cnn.layers_, "output": files.output}
        size = f"{n:,} rows of {width:,} features ({', '.join(cnn.layers_)})"
        text = f"{result.counts}.\n{files.output}: {size}."
    errors = report_unreadable(images.paths, result.errors, "has a row of NaN", "have rows of NaN")
    if files.as_json:
        show_json(vars(result.counts) | about | {"errors": errors})
    else:
        show_text(text)
    return int(files.strict and bool(errors))
