"""`serve` and `app`: a REST service for a saved model, and a page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tlfeatures.cli._groups import Options, argument, expand_options, option
from tlfeatures.cli._terminal import show_text, stderr_is_terminal, warn

if TYPE_CHECKING:
    from tlfeatures.app import AccessPolicy
    from tlfeatures.sources import Source


@dataclass(frozen=True)
class ServedModelOptions(Options):
    """The model of a service."""

    pipe: str = argument(
        "MODEL",
        "File saved by `fit`, `select` or `finetune`, or the folder of `select`. Loading a .joblib file can run code: "
        "load only files you trust.",
    )
    batch_size: int | None = option(
        None,
        "Number of images that the network computes at once; by default that of the model, at most 32.",
        min=1,
    )

    def warn_of_pickle(self) -> None:
        """Print a note if loading the file can run code from the file."""
        from tlfeatures.app._model import find_model_file
        from tlfeatures.saved_models import recognize_model

        if recognize_model(find_model_file(self.pipe)) == "pickle":
            warn(
                f"{self.pipe} is a pickle, and loading a pickle can run code: load only files you trust.",
                "note: ",
            )


@dataclass(frozen=True)
class AddressOptions(Options):
    """The address of a service."""

    panel: ClassVar[str] = "Address"

    host: str = option(
        "127.0.0.1", "Address to bind. If other machines can connect to it, clients need a token."
    )
    port: int = option(8000, "Port to bind; 0 for any free port.", min=0, max=65535)
    allow_host: str | None = option(
        None, "Further names by which clients address the service, separated by commas.", metavar="NAMES"
    )

    def make_policy(self) -> AccessPolicy:
        """Make the policy for the address, with a new token if one is needed."""
        from tlfeatures.app import AccessPolicy

        return AccessPolicy.for_address(
            self.host, filter(None, map(str.strip, (self.allow_host or "").split(",")))
        )


@dataclass(frozen=True)
class WorkerOptions(Options):
    """Processes and limits of a service."""

    panel: ClassVar[str] = "Limits"

    workers: int = option(1, "Number of processes, each with its own copy of the network.", min=1)
    max_images: int = option(64, "Largest number of images in a request.", min=1)
    max_megabytes: int = option(128, "Largest size of a request.", min=1)
    queue: int = option(256, "Number of images that may wait; requests beyond it are answered by 503.", min=1)

    def limits(self) -> Any:
        """Return the limits of requests."""
        from tlfeatures.app import Limits

        size = self.max_megabytes << 20
        return Limits(
            images=self.max_images,
            queue=max(self.queue, self.max_images),
            request_bytes=size,
            image_bytes=min(size, Limits.image_bytes),
            memory_bytes=max(4 * size, Limits.memory_bytes),
        )


@expand_options
def serve(model: ServedModelOptions, address: AddressOptions, options: WorkerOptions) -> None:
    """Serve predictions, embeddings and maps of a saved model over HTTP.

    `POST /v1/predict`, `/v1/embed` and `/v1/explain` take images as multipart/form-data or as base64 in JSON;
    `GET /openapi.json` describes them. Only this machine can connect, unless --host is passed; a random token is then
    printed, which clients must send. Ctrl-C stops the service after it has answered the requests that it has accepted.
    """
    from tlfeatures.app import run_server

    model.warn_of_pickle()
    policy = address.make_policy()

    def show_ready(url: str) -> None:
        if options.workers > 1:
            show_text(f"Starting {options.workers} processes that serve {model.pipe} at {url}")
        else:
            show_text(f"Serving {model.pipe} at {url}")
        if policy.token is not None:
            show_text(f"Token, which is not shown again: {policy.token}")

    run_server(
        model.pipe,
        host=address.host,
        port=address.port,
        policy=policy,
        limits=options.limits(),
        workers=options.workers,
        batch_size=model.batch_size,
        on_progress=show_compilation,
        on_ready=show_ready,
    )


@dataclass(frozen=True)
class PageOptions(Options):
    """Training images that the page shows."""

    panel: ClassVar[str] = "Training images"

    data: str | None = option(
        None,
        "Folder, manifest or array of training images, which the page shows, and whose labels can be changed there.",
        metavar="SOURCE",
    )
    target: str | None = option(
        None, "Column or dataset with the labels of --data; by default label, target or class."
    )

    journal: str | None = option(
        None,
        "File to which changed labels are appended; by default the path of the model and .labels.jsonl.",
        metavar="FILE",
    )

    def read(self) -> Source | None:
        """List the images of all splits; the head is trained again on the train split only, if there are splits."""
        if self.data is None:
            if self.journal is not None:
                raise ValueError("--journal needs --data, the training images whose labels are changed.")
            return None
        from tlfeatures.sources import read_source

        return read_source(self.data, target=self.target)


@expand_options
def show_page(model: ServedModelOptions, training: PageOptions, address: AddressOptions) -> None:
    """Serve a page on which people who do not program can look at predictions of a saved model.

    Drop images on the page to see their probabilities, prediction sets, heat maps and, with --data, the nearest
    training images, whose labels can be corrected by keyboard before the head is trained again in place. Only this
    machine can connect, unless --host is passed; the printed address then has a random token. The page loads nothing
    from other hosts, and uploaded images are not stored.
    """
    from tlfeatures.app import run_server

    model.warn_of_pickle()
    policy = address.make_policy()

    def show_ready(url: str) -> None:
        show_text(f"Open {url}{'' if policy.token is None else f'/?token={policy.token}'}")

    run_server(
        model.pipe,
        host=address.host,
        port=address.port,
        policy=policy,
        batch_size=model.batch_size,
        with_page=True,
        training=training.read(),
        journal=training.journal,
        on_progress=show_compilation,
        on_ready=show_ready,
    )


def show_compilation(done: int, total: int) -> None:
    """Print the progress of the compilation on standard error, if that is a terminal."""
    if stderr_is_terminal():
        warn(f"compiling the network: step {done} of {total}", "")
