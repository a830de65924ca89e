"""Limits of what a client may send, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tlfeatures._params import check_parameters, integer, number

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits of what a client may send, and how long it may take.

    Parameters
    ----------
    images : int, default=64
        Largest number of images in a request; not more than ``queue``.
    image_bytes : int, default=32 MiB
        Largest size of an image file.
    request_bytes : int, default=128 MiB
        Largest size of the body of a request.
    memory_bytes : int, default=512 MiB
        Largest size of the bodies of all requests that are being answered.
    pixels : int, default=100,000,000
        Largest number of pixels of an image. It is read from the header of the file, before anything is decoded.
    queue : int, default=256
        Largest number of images that wait for the network. Requests beyond it are answered by 503 with Retry-After.
    requests : int, default=512
        Largest number of requests that are answered at the same time.
    header_seconds : float, default=10
        Time in which a client must send the headers of a request.
    body_seconds : float, default=60
        Time in which a client must send the body of a request, and in which it must read a large answer.
    answer_seconds : float, default=120
        Time in which a request must be answered after its body was read.

    Raises
    ------
    InvalidParameterError
        If a limit is not positive.

    Examples
    --------
    >>> Limits(images=8).images
    8
    """

    images: int = 64
    image_bytes: int = 32 << 20
    request_bytes: int = 128 << 20
    memory_bytes: int = 512 << 20
    pixels: int = 100_000_000
    queue: int = 256
    requests: int = 512
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 120.0

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: [integer(minimum=1)]
            for name in (
                "images",
                "image_bytes",
                "request_bytes",
                "memory_bytes",
                "pixels",
                "queue",
                "requests",
            )
        },
        **{name: [number(above=0)] for name in ("header_seconds", "body_seconds", "answer_seconds")},
    }

    def __post_init__(self) -> None:
        check_parameters(self)

    @classmethod
    def for_requests(cls, images: int = 64, megabytes: int = 128, queue: int = 256) -> Limits:
        """Make limits for requests of a given size: one of them fits into the queue, and four into memory.

        Parameters
        ----------
        images : int, default=64
            Largest number of images in a request. The queue has room for at least as many.
        megabytes : int, default=128
            Largest size of the body of a request, in MiB. An image may be as large, up to 32 MiB.
        queue : int, default=256
            Largest number of images that wait for the network.

        Returns
        -------
        Limits

        Examples
        --------
        >>> limits = Limits.for_requests(images=1000, megabytes=1024)
        >>> limits.queue, limits.memory_bytes == 4 * limits.request_bytes
        (1000, True)
        """
        size = megabytes << 20
        return cls(
            images=images,
            queue=max(queue, images),
            request_bytes=size,
            image_bytes=min(size, cls.image_bytes),
            memory_bytes=max(4 * size, cls.memory_bytes),
        )
