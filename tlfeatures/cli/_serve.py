"""`serve` and `app`: a REST service for a saved model, and a page that uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, argument, option
from tlfeatures.cli._messages import note_pickle
from tlfeatures.cli._terminal import show_text, stderr_is_terminal, warn


class ServedModelOptions(Options):
    """The model of a service."""

    pipe: str = argument(
        "MODEL",
        "File saved by `fit`, `select` or `finetune`, or the folder of `select`. Loading a .joblib file can run code: "
        "load only files you trust.",
    )
    batch_size: int | None = option(
        None,
        "Number of images that the network computes at once; by default the batch size of the model, but at most 32.",
        min=1,
    )


class AddressOptions(Options, panel="Address"):
    """The address of a service."""

    host: str = option(
        "127.0.0.1", "Address to bind. If other machines can connect to it, clients need a token."
    )
    port: int = option(8000, "Port to bind; 0 for any free port.", min=0, max=65535)
    allow_host: str | None = option(
        None, "Further names by which clients address the service, separated by commas.", metavar="NAMES"
    )

    def run(
        self, model: ServedModelOptions, describe: Callable[[str, str | None], str], **options: Any
    ) -> None:
        """Run the service of a model; when it is ready, print what ``describe`` returns for its URL and its token."""
        from tlfeatures.app import AccessPolicy, run_server
        from tlfeatures.app._model import find_model_file

        note_pickle(find_model_file(model.pipe))
        names = map(str.strip, (self.allow_host or "").split(","))
        policy = AccessPolicy.for_address(self.host, filter(None, names))
        run_server(
            model.pipe,
            host=self.host,
            port=self.port,
            policy=policy,
            batch_size=model.batch_size,
            on_progress=show_compilation,
            on_ready=lambda url: show_text(describe(url, policy.token)),
            **options,
        )


class WorkerOptions(Options, panel="Limits"):
    """Processes and limits of a service."""

    workers: int = option(1, "Number of processes, each with its own copy of the network.", min=1)
    max_images: int = option(64, "Largest number of images in a request.", min=1)
    max_megabytes: int = option(128, "Largest size of a request.", min=1)
    queue: int = option(256, "Number of images that may wait; requests beyond it are answered by 503.", min=1)


def serve(model: ServedModelOptions, address: AddressOptions, options: WorkerOptions) -> None:
    """Serve predictions, embeddings and maps of a saved model over HTTP.

    `POST /v1/predict`, `/v1/embed` and `/v1/explain` take images as multipart/form-data or as base64 in JSON;
    `GET /openapi.json` describes them. Only this machine can connect, unless --host is passed; a random token is then
    printed, which clients must send. Ctrl-C stops the service after it has answered the requests that it has accepted.
    """
    from tlfeatures.app import Limits

    def describe(url: str, token: str | None) -> str:
        start = "Serving" if options.workers == 1 else f"Starting {options.workers} processes that serve"
        note = "" if token is None else f"\nToken, which is not shown again: {token}"
        return f"{start} {model.pipe} at {url}{note}"

    limits = Limits.for_requests(options.max_images, options.max_megabytes, options.queue)
    address.run(model, describe, limits=limits, workers=options.workers)


class PageOptions(opt.TrainingImages):
    """Training images that the page shows."""

    data: str | None = option(
        None,
        "Folder, manifest or array of training images, which the page shows, and whose labels can be changed there.",
        metavar="SOURCE",
    )
    journal: str | None = option(
        None,
        "File to which changed labels are appended; by default the path of the model and .labels.jsonl.",
        metavar="FILE",
    )


def show_page(model: ServedModelOptions, training: PageOptions, address: AddressOptions) -> None:
    """Serve a page on which people who do not program can look at predictions of a saved model.

    Drop images on the page to see their probabilities, prediction sets, heat maps and, with --data, the nearest
    training images, whose labels can be corrected by keyboard before the head is trained again in place. Only this
    machine can connect, unless --host is passed; the printed address then has a random token. The page loads nothing
    from other hosts, and uploaded images are not stored.
    """

    def describe(url: str, token: str | None) -> str:
        return f"Open {url}{'' if token is None else f'/?token={token}'}"

    # images of all splits; the head is trained again on the train split only, if there are splits
    address.run(model, describe, with_page=True, training=training.read(), journal=training.journal)


def show_compilation(done: int, total: int) -> None:
    """Print the progress of the compilation on standard error, if that is a terminal."""
    if stderr_is_terminal():
        warn(f"compiling the network: step {done} of {total}", "")
