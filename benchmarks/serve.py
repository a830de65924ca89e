"""`tlfeatures serve`: 50 clients on the cores of the service, against `transform` on the same images.

    python benchmarks/serve.py [--quick]

The service runs in its own process. Rounds of requests, one image of 500 x 375 pixels in each, alternate with rounds of
`transform` without a store. Every answer is compared with that of the pipeline. Further requests follow, before and
after which the memory of the service is read, and damaged uploads.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import arguments, interleaved, median_ratio, mobilenet_weights, photographs, progress, report

TARGETS = {
    "throughput_ratio": (">=", 0.65),
    "lost": ("<=", 0),
    "wrong": ("<=", 0),
    "growth_mb": ("<=", 50),
    "damaged_5xx": ("<=", 0),
    "first_answer_s": ("<=", 0.2),
}
BOUNDARY = b"benchmark"


def make_request(image: bytes, path: str = "/v1/predict") -> bytes:
    """Make the bytes of a request with one image."""
    disposition = b'Content-Disposition: form-data; name="file"; filename="a.jpg"'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (BOUNDARY, disposition, image, BOUNDARY)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
    )
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    return int(head[9:12]), await reader.readexactly(length)


async def send_all(
    port: int, requests: Sequence[bytes], n_clients: int
) -> list[tuple[int, bytes, float] | None]:
    """Send requests by some clients, each with one connection; return status, body and seconds, None if lost."""
    answers: list[Any] = [None] * len(requests)
    jobs = iter(range(len(requests)))

    async def run_client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in jobs:
            start = time.perf_counter()
            writer.write(requests[i])
            await writer.drain()
            status, body = await read_answer(reader)
            answers[i] = status, body, time.perf_counter() - start
        writer.close()

    await asyncio.gather(*(run_client() for _ in range(n_clients)), return_exceptions=True)
    return answers


def count_wrong(answers: Sequence[Any], rows: Sequence[int], pipeline: Any, images: Sequence[bytes]) -> int:
    """Count the answers that differ from those of the pipeline in the label, or by 1e-5 in a probability.

    The last digits of probabilities depend on the number of rows that the head gets at once.
    """
    expected, labels = pipeline.predict_proba(images), pipeline.predict(images)
    wrong = 0
    for row, answer in zip(rows, answers, strict=True):
        if answer is None:
            continue
        (entry,) = json.loads(answer[1])["images"] if answer[0] == 200 else ({},)
        values = [entry.get("probabilities", {}).get(name, np.nan) for name in map(str, pipeline.classes_)]
        is_close = np.abs(np.array(values) - expected[row]).max() < 1e-5
        wrong += not (is_close and entry["prediction"] == labels[row])
    return wrong


def damage(images: Sequence[bytes], count: int) -> list[bytes]:
    """Make requests with damaged images, damaged forms, and other content."""
    rng, requests = np.random.default_rng(0), []
    for i in range(count):
        data = bytearray(images[i % len(images)][: rng.integers(1, 20_000)])
        for position in rng.integers(0, len(data), 20):
            data[position] = rng.integers(256)
        request = make_request(bytes(data))
        if i % 4 == 0:  # the form
            head, _, body = request.partition(b"\r\n\r\n")
            body = bytearray(body)
            for position in rng.integers(0, min(200, len(body)), 3):
                body[position] = rng.integers(256)
            request = head + b"\r\n\r\n" + bytes(body)
        requests.append(request)
    return requests


def read_memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def make_model(folder: str, paths: list[str], quick: bool) -> Any:
    """Fit and save a pipeline; return it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from tlfeatures import CNNFeatures
    from tlfeatures.saved_models import save_pipeline

    if quick:
        cnn = CNNFeatures("tiny", image_size=32, cache=None)
    else:
        cnn = CNNFeatures("mobilenet_0.75", weights=mobilenet_weights(folder), cache=None)
    pipeline = make_pipeline(cnn, StandardScaler(), LogisticRegression(max_iter=1000))
    pipeline.fit(paths[:64], [f"class {i % 4}" for i in range(len(paths[:64]))])
    save_pipeline(pipeline, f"{folder}/model.joblib")
    return pipeline


def measure(process: Any, port: int, pipeline: Any, paths: list[str], args: Any) -> dict[str, float]:
    """Measure the running service."""
    n_clients, n_requests, n_more, n_damaged, rounds = (
        (8, 40, 80, 40, 1) if args.quick else (50, args.requests, args.more, 1000, 3)
    )
    images = [Path(path).read_bytes() for path in paths]
    requests = [make_request(image) for image in images]
    repeated = [requests[i % len(requests)] for i in range(n_requests)]
    first = asyncio.run(send_all(port, requests[:1], 1))[0]
    pipeline[0].transform(images[:32])
    answers: list[Any] = []

    def serve() -> float:
        start = time.perf_counter()
        answers.extend(asyncio.run(send_all(port, repeated, n_clients)))
        return n_requests / (time.perf_counter() - start)

    def transform() -> float:
        distinct = [images[i % len(images)] + i.to_bytes(8, "big") for i in range(n_requests)]
        start = time.perf_counter()
        pipeline[0].transform(distinct)
        return n_requests / (time.perf_counter() - start)

    speeds = interleaved({"serve": serve, "transform": transform}, rounds)
    latencies = sorted(answer[2] for answer in answers if answer is not None)
    progress(f"{n_more} further requests")
    rows = [i % len(images) for n in (*[n_requests] * rounds, n_more) for i in range(n)]
    before = read_memory(process.pid)
    more = asyncio.run(send_all(port, [requests[i % len(requests)] for i in range(n_more)], n_clients))
    after = read_memory(process.pid)
    progress(f"{n_damaged} damaged uploads")
    damaged = asyncio.run(send_all(port, damage(images, n_damaged), 8))
    return {
        "serve_images_per_s": statistics.median(speeds["serve"]),
        "transform_images_per_s": statistics.median(speeds["transform"]),
        "throughput_ratio": median_ratio(speeds["serve"], speeds["transform"]),
        "median_ms": 1000 * statistics.median(latencies),
        "percentile_99_ms": 1000 * latencies[int(0.99 * len(latencies))],
        "first_answer_s": first[2],
        "requests": n_requests,
        "lost": sum(answer is None for answer in [*answers, *more]),
        "wrong": count_wrong([*answers, *more], rows, pipeline, images),
        "further_requests": n_more,
        "growth_mb": after - before,
        "damaged": n_damaged,
        "damaged_5xx": sum(answer is None or answer[0] >= 500 for answer in damaged),
        "alive": int(process.poll() is None),
    }


def main() -> None:
    """Start the service, measure and report."""
    parser = arguments(__doc__, "serve")
    parser.add_argument("--requests", type=int, default=2000, help="requests of a round")
    parser.add_argument("--more", type=int, default=20_000, help="requests for the growth of memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = (120, 90) if args.quick else (500, 375)
        paths = photographs(f"{folder}/photographs", 24 if args.quick else 400, size, classes=4)
        pipeline = make_model(folder, paths, args.quick)
        code = "import sys; from tlfeatures.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "serve", f"{folder}/model.joblib", "--port", "0"]
        progress("starting the service")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                port = int(process.stdout.readline().rsplit(":", 1)[1])
                figures = measure(process, port, pipeline, paths, args)
                process.terminate()
                figures["exit_code"] = process.wait(60)
            finally:
                process.kill()
    report("serve", args, figures, TARGETS, clients=8 if args.quick else 50)


if __name__ == "__main__":
    main()
