"""`tlfeatures serve`: 50 clients on the cores of the service, against `transform` on the same images.

    python benchmarks/serve.py [--quick] [--part throughput|memory|damaged]

The service runs in its own process. Rounds of requests, one image of 500 x 375 pixels in each, alternate with rounds of
`transform` without a store. Every answer is compared with that of the pipeline. Further requests follow, before and
after which the memory of the service is read, and damaged uploads. The CPU times hardly depend on other processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import arguments, interleaved, median_ratio, mobilenet_weights, photographs, progress, report

TARGETS = {
    "throughput_ratio": (">=", 0.65),
    "lost": ("<=", 0),
    "wrong": ("<=", 0),
    "growth_mb": ("<=", 30),  # of 12,000 requests
    "memory_lost": ("<=", 0),
    "memory_wrong": ("<=", 0),
    "damaged_5xx": ("<=", 0),
    "alive": (">=", 1),
    "first_answer_s": ("<=", 0.2),
    "exit_code": ("<=", 0),
}
PARTS = ("throughput", "memory", "damaged")
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


def read_cpu(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_throughput(service: Service, n_requests: int, rounds: int) -> dict[str, float]:
    """Measure requests of many clients against `transform`, which run in turn."""
    images, transform = service.images, service.pipeline[0].transform
    repeated = [make_request(images[i % len(images)]) for i in range(n_requests)]
    answers: list[Any] = []
    cpu = {"service": 0.0, "clients": 0.0, "transform": 0.0}
    transform(images[:32])

    def serve() -> float:
        start, server, clients = time.perf_counter(), read_cpu(service.process.pid), time.process_time()
        answers.extend(service.send(repeated))
        seconds = time.perf_counter() - start
        cpu["service"] += read_cpu(service.process.pid) - server
        cpu["clients"] += time.process_time() - clients
        return n_requests / seconds

    def transform_all() -> float:
        distinct = [images[i % len(images)] + i.to_bytes(8, "big") for i in range(n_requests)]
        start, before = time.perf_counter(), time.process_time()
        transform(distinct)
        cpu["transform"] += time.process_time() - before
        return n_requests / (time.perf_counter() - start)

    speeds = interleaved({"serve": serve, "transform": transform_all}, rounds)
    latencies = sorted(answer[2] for answer in answers if answer is not None)
    return {
        "serve_images_per_s": statistics.median(speeds["serve"]),
        "transform_images_per_s": statistics.median(speeds["transform"]),
        "throughput_ratio": median_ratio(speeds["serve"], speeds["transform"]),
        **{f"{name}_cpu_ms": 1000 * value / rounds / n_requests for name, value in cpu.items()},
        "cpu_ratio": cpu["transform"] / (cpu["service"] + cpu["clients"]),
        "median_ms": 1000 * statistics.median(latencies),
        "percentile_99_ms": 1000 * latencies[int(0.99 * len(latencies))],
        "requests": n_requests,
        "lost": sum(answer is None for answer in answers),
        "wrong": service.count_wrong(answers, rounds),
    }


def measure_memory(service: Service, n_requests: int) -> dict[str, float]:
    """Measure the growth of the service over many requests, after some first ones."""
    images = service.images
    requests = [make_request(image) for image in images]
    service.send([requests[i % len(requests)] for i in range(max(500, n_requests // 10))])
    before = read_memory(service.process.pid)
    progress(f"{n_requests} requests")
    answers = service.send([requests[i % len(requests)] for i in range(n_requests)])
    return {
        "memory_requests": n_requests,
        "memory_mb": before,
        "growth_mb": read_memory(service.process.pid) - before,
        "memory_lost": sum(answer is None for answer in answers),
        "memory_wrong": service.count_wrong(answers),
    }


def measure_damaged(service: Service, count: int) -> dict[str, float]:
    """Send damaged uploads, and then a good one."""
    progress(f"{count} damaged uploads")
    answers = service.send(damage(service.images, count), n_clients=8)
    (good,) = service.send([make_request(service.images[0])])
    return {
        "damaged": count,
        "damaged_5xx": sum(answer is None or answer[0] >= 500 for answer in answers),
        "alive": int(service.process.poll() is None and good is not None and good[0] == 200),
    }


@dataclass
class Service:
    """The running service of a pipeline, and images to send."""

    process: Any
    port: int
    pipeline: Any
    images: list[bytes]
    n_clients: int

    def send(self, requests: Sequence[bytes], n_clients: int | None = None) -> list[Any]:
        """Send requests; return status, body and seconds, None if lost."""
        return asyncio.run(send_all(self.port, requests, n_clients or self.n_clients))

    def count_wrong(self, answers: Sequence[Any], rounds: int = 1) -> int:
        """Count wrong answers; in each round, the images were sent in order, again and again."""
        size = len(answers) // rounds
        rows = [i % len(self.images) for _ in range(rounds) for i in range(size)]
        return count_wrong(answers, rows, self.pipeline, self.images)


def main() -> None:
    """Start the service, measure and report."""
    parser = arguments(__doc__, "serve")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="what to measure; by default everything"
    )
    parser.add_argument("--requests", type=int, default=2000, help="requests of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the throughput")
    parser.add_argument("--more", type=int, default=12_000, help="requests for the growth of memory")
    args = parser.parse_args()
    if args.quick:
        args.requests, args.rounds, args.more = 40, 1, 80
    n_clients = 8 if args.quick else 50
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
                images = [Path(path).read_bytes() for path in paths]
                service = Service(process, port, pipeline, images, n_clients)
                (first,) = service.send([make_request(images[0])])
                figures = {"first_answer_s": first[2]}
                for part in args.part or PARTS:
                    if part == "throughput":
                        figures |= measure_throughput(service, args.requests, args.rounds)
                    elif part == "memory":
                        figures |= measure_memory(service, args.more)
                    else:
                        figures |= measure_damaged(service, 40 if args.quick else 1000)
                process.terminate()
                figures["exit_code"] = process.wait(60)
            finally:
                process.kill()
    report("serve", args, figures, TARGETS, clients=n_clients)


if __name__ == "__main__":
    main()
