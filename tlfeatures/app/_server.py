"""`run_server`: run the service with uvicorn until it is stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

from tlfeatures._params import check_parameter, integer
from tlfeatures.app._access import AccessPolicy
from tlfeatures.app._journal import Journal
from tlfeatures.app._labels import can_train
from tlfeatures.app._limits import Limits
from tlfeatures.app._model import ServedModel, find_model_file
from tlfeatures.app._service import check_packages, make_service
from tlfeatures.errors import InvalidParameterError, LowContrastImagesWarning, UnreadableImagesWarning
from tlfeatures.saved_models import recognize_model
from tlfeatures.sources import Source

__all__ = ["make_server", "make_worker", "run_server"]

_UVICORN: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "lifespan": "on",
}

# environment variable that passes the options to the workers, which are new processes
_OPTIONS = "TLFEATURES_WORKER_OPTIONS"


def run_server(
    model: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: AccessPolicy | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    batch_size: int | None = None,
    with_page: bool = False,
    training: Source | None = None,
    journal: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Run the service of a saved model until SIGINT or SIGTERM; requests that were accepted are answered first.

    Parameters
    ----------
    model : path
        A saved pipeline, the folder of a search, or a saved fine-tuned network.
    host : str, default="127.0.0.1"
        Address to bind.
    port : int, default=8000
        Port to bind. 0 selects a free port; ``on_ready`` is called with the address that contains it.
    policy : AccessPolicy, optional
        By default `AccessPolicy.for_address(host)`.
    limits : Limits, optional
    workers : int, default=1
        Number of processes, each with its own copy of the network and its own queue.
    batch_size : int, optional
        Number of images that the network computes at once; by default the batch size of the model, but at most 32.
    with_page : bool, default=False
        Whether to serve the web page at ``/``. Needs ``workers=1``.
    training : Source, optional
        Training images. The page shows the training images nearest to each image; the user can correct their labels.
        Needs ``workers=1``.
    journal : path, optional
        File to which changed labels are appended; by default the path of the model and ".labels.jsonl".
    on_progress : callable, optional
        Called with the number of finished steps and of all steps while the network is compiled; with one worker only.
    on_ready : callable, optional
        Called with the address of the service, before the first request is answered.

    Raises
    ------
    SavedModelError
        If the file does not contain a model.
    InvalidParameterError
        If a parameter is invalid, or if ``workers`` is not 1 although ``with_page`` or ``training`` is set.
    OSError
        If the port is in use, or the host is not an address of this machine.
    JournalError
        If another process uses the journal, or it cannot be opened.
    """
    check_packages()
    check_parameter("workers", workers, [integer(minimum=1)])
    check_parameter("batch_size", batch_size, [None, integer(minimum=1)])
    check_parameter("port", port, [integer(minimum=0, maximum=65535)])
    if workers > 1 and (with_page or training is not None):
        raise InvalidParameterError(
            "`workers` must be 1 with the page or with training images, because changed labels are kept in one "
            f"process; got {workers}.",
            "workers",
        )
    if not host:
        raise InvalidParameterError("`host` must be an address or a name; got an empty string.", "host")
    policy, limits = policy or AccessPolicy.for_address(host), limits or Limits()
    path = find_model_file(model)
    recognize_model(path)
    with _bind(host, port) as sock:
        url = _format_url(host, sock.getsockname()[1])
        if workers == 1:
            served = ServedModel(path, batch_size=batch_size, max_pixels=limits.pixels)
            # opened first, so that a journal in use is reported at once
            with _open_journal(served, training, journal) as label_journal:
                served.warm_up(on_progress)
                if training is not None:
                    served.load_training_images(training)
                service = make_service(
                    served, policy=policy, limits=limits, with_page=with_page, journal=label_journal
                )
                server = make_server(service, limits)
                with warnings.catch_warnings():
                    _ignore_image_warnings()
                    sock.listen()
                    on_ready(url)
                    # uvicorn raises these again after it has answered the last request
                    with contextlib.suppress(KeyboardInterrupt, SystemExit):
                        server.run(sockets=[sock])
            return
    # uvicorn binds the port again for its workers
    _run_workers(path, url, policy, limits, batch_size, on_ready, host=host, workers=workers)


def make_server(service: Any, limits: Limits) -> Any:
    """Make the server of uvicorn for a service; ``run(sockets=[...])`` runs it."""
    import uvicorn

    from tlfeatures.app._protocol import make_protocol

    return uvicorn.Server(uvicorn.Config(service, http=make_protocol(limits), **_UVICORN))


def _run_workers(
    model: str,
    url: str,
    policy: AccessPolicy,
    limits: Limits,
    batch_size: int | None,
    on_ready: Callable[[str], None],
    **options: Any,
) -> None:
    import uvicorn

    from tlfeatures.app._protocol import TimedProtocol

    # Check the model first: uvicorn would restart failing workers forever. The check runs in its own process, so that
    # its memory is released.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_check_model, model).result()
    os.environ[_OPTIONS] = json.dumps(
        {
            "model": os.path.abspath(model),
            "batch_size": batch_size,
            "hosts": sorted(policy.hosts),
            "any_address": policy.any_address,
            "token": policy.token,
            "limits": asdict(limits),
        }
    )
    on_ready(url)
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            uvicorn.run(
                "tlfeatures.app._server:make_worker",
                factory=True,
                port=int(url.rsplit(":", 1)[1]),
                http=TimedProtocol,
                timeout_worker_healthcheck=600,  # seconds; a worker loads its network in this time
                **_UVICORN,
                **options,
            )
    finally:
        del os.environ[_OPTIONS]


def _check_model(path: str) -> None:
    """Raise an error if a model cannot be loaded, or its network cannot run."""
    ServedModel(path, batch_size=1).warm_up()


def make_worker() -> Any:
    """Make the application of a worker, from the options in its environment."""
    from tlfeatures.app._protocol import TimedProtocol

    options = json.loads(os.environ[_OPTIONS])
    limits = Limits(**options["limits"])
    # Set class attributes, because the class that `make_protocol` returns cannot be pickled for a worker. They only
    # affect this process.
    TimedProtocol.header_seconds, TimedProtocol.body_seconds = limits.header_seconds, limits.body_seconds
    _ignore_image_warnings()
    model = ServedModel(options["model"], batch_size=options["batch_size"], max_pixels=limits.pixels)
    model.warm_up()
    policy = AccessPolicy(frozenset(options["hosts"]), options["any_address"], options["token"])
    return make_service(model, policy=policy, limits=limits)


def _ignore_image_warnings() -> None:
    """Ignore warnings about single images; the answers contain the same information."""
    for category in (UnreadableImagesWarning, LowContrastImagesWarning):
        warnings.simplefilter("ignore", category)


def _open_journal(model: ServedModel, training: Source | None, path: Any) -> Any:
    """Open the journal of labels as a context manager; it gives None if the model has no labels that can be changed."""
    if training is None or not can_train(model):
        return contextlib.nullcontext()
    return Journal(path or f"{model.path}.labels.jsonl")


@contextlib.contextmanager
def _bind(host: str, port: int) -> Iterator[socket.socket]:
    """Bind an address before the model is loaded, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            reason = (error.strerror or "failed").lower()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                hint = "pass another --port"
            else:
                hint = "--host must be an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
            raise OSError(error.errno, f"Cannot bind port {port} of {host} ({reason}); {hint}") from None
        yield sock


def _format_url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
