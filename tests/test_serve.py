"""The REST service of a fitted model: answers, limits, problems and access."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra app")
pytest.importorskip("httpx", reason="needs httpx, which Starlette's TestClient uses")
pytest.importorskip("python_multipart", reason="needs the extra app")

from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from starlette.testclient import TestClient

from tlfeatures import CNNFeatures, ConformalClassifier, explain, save
from tlfeatures.app import AccessPolicy, Limits, make_service, run_server
from tlfeatures.app._metrics import Metrics
from tlfeatures.app._model import ServedModel, find_model_file
from tlfeatures.app._problems import Problem
from tlfeatures.app._protocol import TimedProtocol
from tlfeatures.app._queue import BatchQueue, QueueFull, list_batch_sizes
from tlfeatures.app._server import make_server, make_worker
from tlfeatures.app._uploads import check_length
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError, SavedModelError
from tlfeatures.saved_models import save_pipeline
from tlfeatures.sources import Source

pytestmark = pytest.mark.filterwarnings(
    "ignore:`false_alarm_rate", "ignore:1 of 1 images span", "ignore:.*could not be read"
)
PROBLEM = "application/problem+json"


def encode(pixels, format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images():
    """Encoded images of random patterns; the first eight are dark, the others bright."""
    rng = np.random.default_rng(0)
    return [
        encode(rng.integers(128 * (i >= 8), 128 + 127 * (i >= 8), (40, 48, 3), dtype="uint8"))
        for i in range(16)
    ]


@pytest.fixture(scope="module")
def labels():
    return ["dark"] * 8 + ["bright"] * 8


@pytest.fixture(scope="module")
def pipeline(images, labels):
    """A fitted pipeline with prediction sets and probabilities."""
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    conformal = ConformalClassifier(make_pipeline(cnn, LogisticRegression()), error_rate=0.2, cv=2)
    return conformal.fit(images, labels).to_pipeline()


@pytest.fixture(scope="module")
def model_file(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.joblib"
    save_pipeline(pipeline, path)
    return path


@pytest.fixture(scope="module")
def model(model_file):
    return ServedModel(model_file, batch_size=4, max_pixels=10_000)


LIMITS = Limits(images=8, image_bytes=100_000, request_bytes=500_000, queue=8, body_seconds=30)


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_service(model, limits=LIMITS), base_url="http://localhost:8000") as client:
        yield client


def post(client, *images, path="/v1/predict", **kwargs):
    files = [("file", (name, data, "application/octet-stream")) for name, data in images]
    return client.post(path, files=files, **kwargs)


def check_problem(response, status, name):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert problem["type"] == f"urn:tlfeatures:problem:{name}" and problem["status"] == status
    assert problem["title"] and problem["detail"].endswith((".", "}"))
    return problem["detail"]


# --- answers


def test_predictions_equal_those_of_the_pipeline(client, pipeline, images):
    chosen = images[5:11]
    response = post(client, *((f"{i}.png", image) for i, image in enumerate(chosen)))
    assert response.status_code == 200, response.text
    content = response.json()
    assert content["model"] == "model.joblib"
    answers = content["images"]
    assert [answer["name"] for answer in answers] == [f"{i}.png" for i in range(6)]
    assert [answer["prediction"] for answer in answers] == pipeline.predict(chosen).tolist()
    expected = pipeline.predict_proba(chosen)
    for answer, row in zip(answers, expected, strict=True):
        assert answer["error"] is None
        assert answer["probabilities"] == dict(zip(pipeline.classes_.tolist(), row.tolist(), strict=True))
        assert next(iter(answer["probabilities"])) == answer["prediction"] in answer["set"]
        assert 0 < answer["p_value"] <= 1 and isinstance(answer["unusual"], bool)


def test_json_and_forms_have_equal_answers(client, images):
    body = {"images": [{"name": "a.png", "data": base64.b64encode(images[0]).decode()}]}
    assert client.post("/v1/predict", json=body).json() == post(client, ("a.png", images[0])).json()


def test_embeddings_equal_those_of_the_pipeline(client, pipeline, images):
    answers = post(client, ("a", images[0]), ("b", images[9]), path="/v1/embed").json()["images"]
    embeddings = np.array([answer["embedding"] for answer in answers], "float32")
    np.testing.assert_array_equal(embeddings, pipeline[0].transform([images[0], images[9]]))


def test_maps_equal_those_of_explain(client, pipeline, images):
    (answer,) = post(client, ("a", images[0]), path="/v1/explain?label=bright").json()["images"]
    expected = explain(pipeline, images[:1], label="bright")
    np.testing.assert_allclose(answer["map"], expected.maps[0])
    assert (answer["label"], answer["prediction"], answer["method"]) == ("bright", "dark", "exact")
    assert np.mean(answer["map"]) + answer["constant"] == pytest.approx(answer["value"])
    assert answer["box"] == [0, 0, 1, 1]
    (answer,) = post(client, ("a", images[0]), path="/v1/explain?label=brigt").json()["images"]
    assert "Did you mean 'bright'?" in answer["error"]["detail"]


def test_an_unreadable_image_is_one_error(client, images):
    responses = [("a.png", images[0]), ("notes.txt", b"no image"), ("empty.png", b""), ("b.png", images[9])]
    for path in ("/v1/predict", "/v1/embed", "/v1/explain"):
        response = post(client, *responses, path=path)
        answers = response.json()["images"]
        assert response.status_code == 200
        assert [answer["error"] is None for answer in answers] == [True, False, False, True]
        assert answers[1]["error"]["type"] == "urn:tlfeatures:problem:unreadable-image"
        assert "not an image in a known format" in answers[1]["error"]["detail"]
        assert "empty" in answers[2]["error"]["detail"]


def test_regression_and_decision_values(images, labels, tmp_path):
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    for name, head, y in (("ridge", Ridge(), np.arange(16.0)), ("svc", SVC(), labels)):
        pipeline = make_pipeline(cnn, head).fit(images, y)
        save_pipeline(pipeline, tmp_path / name)
        model = ServedModel(tmp_path / name, batch_size=2)
        (answer,) = model.predict(images[:1])
        assert answer["prediction"] == pipeline.predict(images[:1])[0]
        assert ("decision" in answer) == (name == "svc") and "probabilities" not in answer
        assert model.about()["task"] == ("classification" if name == "svc" else "regression")


def test_description_health_and_metrics(client, images):
    about = client.get("/v1/model").json()
    assert about["classes"] == ["bright", "dark"] and about["network"] == "tiny"
    assert about["n_features"] == 320 and about["limits"]["images"] == 8 and about["error_rate"] == 0.2
    assert client.get("/healthz").json() == {"status": "ok"}
    post(client, ("a", images[0]), ("b", b"damaged"))
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counts = {name.partition("{")[0] + name.partition(",")[2]: float(value) for name, value in lines.items()}
    assert counts['tlfeatures_requests_totalpath="/v1/predict",status="200"}'] >= 1
    assert counts['tlfeatures_images_totaloutcome="error"}'] >= 1
    assert counts["tlfeatures_queue_images"] == 0
    for _ in range(3):
        client.get("/unknown/path")
    assert "/unknown" not in client.get("/metrics").text


def test_openapi_has_examples_and_all_routes(client):
    schema = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/embed", "/v1/explain", "/v1/model", "/healthz", "/metrics"} <= set(
        schema["paths"]
    )
    for name in ("predict", "embed", "explain"):
        post = schema["paths"][f"/v1/{name}"]["post"]
        example = post["requestBody"]["content"]["application/json"]["example"]
        assert client.post(f"/v1/{name}", json=example).json()["images"][0]["error"] is None
        answer = post["responses"]["200"]["content"]["application/json"]["example"]["images"]
        assert answer[0].get("error") is None and answer[1]["error"]["status"] == 422
        assert {"413", "503"} <= set(post["responses"])
    assert client.get("/docs").status_code == 404  # it would load scripts from another host


def test_name_of_the_file_may_not_be_unicode(model_file, tmp_path):
    shutil.copy(model_file, tmp_path / os.fsdecode(b"m\xff.joblib"))
    model = ServedModel(tmp_path / os.fsdecode(b"m\xff.joblib"), batch_size=1)
    with TestClient(make_service(model), base_url="http://localhost") as client:
        summary = client.get("/openapi.json").json()["info"]["summary"]
        assert summary == "Predictions of m\\udcff.joblib"
        assert client.get("/v1/model").json()["name"] == os.fsdecode(b"m\xff.joblib")


def test_folder_of_a_search(model_file, tmp_path):
    assert find_model_file(model_file.parent) == str(model_file)
    with pytest.raises(
        SavedModelError, match="must contain one saved model, as `tlfeatures select -o` writes it"
    ):
        find_model_file(tmp_path)


def test_folder_with_several_models(tmp_path):
    names = ["old.pkl", "b.tlf", "a.tlf"]
    for i, name in enumerate(names):
        (tmp_path / name).touch()
        if i == 0:
            assert find_model_file(tmp_path) == str(tmp_path / name)
        else:
            with pytest.raises(SavedModelError, match=r"one saved model.*Pass the path of the model file"):
                find_model_file(tmp_path)
    for name in ("pipeline.joblib", "pipeline.tlf"):
        (tmp_path / name).touch()
        assert find_model_file(tmp_path) == str(tmp_path / name)


def test_uploads_are_not_stored(pipeline, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    save_pipeline(pipeline, tmp_path / "model.joblib")
    model = ServedModel(tmp_path / "model.joblib", batch_size=2)
    with TestClient(make_service(model), base_url="http://localhost") as client:
        noise = encode(np.random.default_rng(1).integers(0, 255, (900, 900, 3), dtype="uint8"))
        assert len(noise) > 2 << 20  # more than what parsers of forms keep in memory by default
        assert post(client, ("a", noise)).json()["images"][0]["error"] is None
    assert {path.name for path in tmp_path.rglob("*")} == {"temporary", "model.joblib"}


# --- limits


@pytest.mark.parametrize(
    ("kwargs", "status", "name"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported-media-type"),
        ({"content": b"x"}, 415, "unsupported-media-type"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed-json"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "malformed-json"),
        ({"json": {"images": "a"}}, 400, "malformed-json"),
        ({"json": {"images": [1]}}, 400, "malformed-json"),
        ({"json": [1]}, 400, "malformed-json"),
        ({"json": {"images": []}}, 422, "no-images"),
        ({"json": {"images": [{"data": ""}] * 9}}, 413, "too-many-images"),
        ({"files": [("f", (f"{i}", b"x")) for i in range(9)]}, 413, "too-many-images"),
        ({"data": {"a": "b"}, "files": None}, 415, "unsupported-media-type"),
        ({"content": b"x" * 500_001}, 413, "request-too-large"),
    ],
)
def test_malformed_requests_are_problems(client, kwargs, status, name):
    check_problem(client.post("/v1/predict", **kwargs), status, name)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nxx",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nxx\r\n--b--\r\n",
        b"--b\r\nno header\r\n\r\nxx\r\n--b--\r\n",
        b"garbage" * 100,
        b"--b\r\n" + b"X" * 100_000,
        b"\x00\xff\xfe",
    ],
)
def test_malformed_forms_are_problems(client, body):
    for kind in ("multipart/form-data; boundary=b", "multipart/form-data", "multipart/form-data; boundary="):
        response = client.post("/v1/predict", content=body, headers={"content-type": kind})
        assert response.status_code in (400, 422), response.text
        assert response.headers["content-type"] == PROBLEM
        assert "Send multipart/form-data with one part for each file" in response.json()["detail"]


def test_body_without_length_is_limited(client):
    def chunks():
        for _ in range(20):
            yield b"x" * 50_000

    check_problem(client.post("/v1/predict", content=chunks()), 413, "request-too-large")


@pytest.mark.parametrize(
    "length, is_too_large", [("10", False), ("11", True), ("9" * 5000, True), ("\u00b2", False)]
)
def test_announced_length_is_limited(length, is_too_large):
    with pytest.raises(Problem) if is_too_large else contextlib.nullcontext():
        check_length({"content-length": length}, Limits(request_bytes=10))


def test_large_images_and_bombs_are_errors_of_these_images(client, images):
    width = height = 30_000  # a header that states 900 million pixels, in less than 100 bytes
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    bomb = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + header + zlib.crc32(header).to_bytes(4, "big")
    bomb += b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    many = encode(np.zeros((101, 100), "uint8"))
    answers = post(
        client,
        ("large.png", images[0] + bytes(100_000)),
        ("bomb.png", bomb),
        ("many.png", many),
        ("a", images[0]),
    ).json()["images"]
    kinds = [answer["error"] and answer["error"]["type"].rsplit(":", 1)[1] for answer in answers]
    assert kinds == ["image-too-large", "unreadable-image", "too-many-pixels", None]
    assert "pixel limit" in answers[1]["error"]["detail"]
    assert "100 x 101 pixels; at most 10,000 are decoded" in answers[2]["error"]["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "图片.png",
        "é" * 1000,
        "a\u202eb",
        "\ud800.png",
        "a\0b",
        "<b>",
    ],
)
def test_names_are_only_repeated(client, images, name):
    body = {"images": [{"name": name, "data": base64.b64encode(images[0]).decode()}]}
    answer = client.post(
        "/v1/predict", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    (entry,) = answer.json()["images"]
    assert entry["error"] is None and len(entry["name"]) <= 255
    assert entry["name"] == name[:255].encode("utf-8", "replace").decode()
    if "\ud800" not in name and "\0" not in name:
        (entry,) = post(client, (name, images[0])).json()["images"]
        assert entry["error"] is None


def test_invalid_base64_is_an_error_of_this_image(client, images):
    body = {"images": [{"data": "***"}, {"data": 3}, {}, {"data": base64.b64encode(images[0]).decode()}]}
    answers = client.post("/v1/predict", json=body).json()["images"]
    assert [answer["error"] is None for answer in answers] == [False, False, False, True]
    assert answers[0]["error"]["type"].endswith("invalid-base64")


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd",
        "/static/../../pyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/..%2fmodel",
        "//etc",
    ],
)
def test_paths_outside_the_routes_do_not_exist(client, path):
    check_problem(client.get(path), 404, "not-found")


def test_wrong_methods_are_problems(client):
    check_problem(client.get("/v1/predict"), 405, "method-not-allowed")
    check_problem(client.delete("/v1/model"), 405, "method-not-allowed")


def test_limits_are_checked():
    with pytest.raises(InvalidParameterError, match="`images` must be an integer of at least 1; got 0"):
        Limits(images=0)


def test_limits_of_workers(model_file, monkeypatch):
    for name in ("header_seconds", "body_seconds"):
        monkeypatch.setattr(TimedProtocol, name, getattr(TimedProtocol, name))  # set back at the end
    limits = Limits(header_seconds=1.5, body_seconds=2.5)
    options = {"model": str(model_file), "batch_size": 1, "limits": asdict(limits)}
    policy = {"hosts": ["localhost"], "any_address": False, "token": None}
    monkeypatch.setenv("TLFEATURES_WORKER_OPTIONS", json.dumps(options | policy))
    assert make_worker().state.service.limits == limits
    assert (TimedProtocol.header_seconds, TimedProtocol.body_seconds) == (1.5, 2.5)


@pytest.mark.parametrize(
    "options", [{"with_page": True}, {"training": Source(["a.png"], None, None, None, ["a.png"], "file")}]
)
def test_the_page_has_one_process(model_file, options):
    with pytest.raises(
        InvalidParameterError, match=r"`workers` must be 1 with the page or with training.*; got 2"
    ):
        run_server(model_file, workers=2, **options)


def test_limits_for_requests_of_other_sizes():
    assert Limits.for_requests() == Limits()
    small, large = Limits.for_requests(8, megabytes=1), Limits.for_requests(1000, megabytes=1024, queue=10)
    assert (small.image_bytes, small.request_bytes) == (1 << 20, 1 << 20)
    assert large.queue == 1000 and large.image_bytes == 32 << 20
    assert large.memory_bytes >= 4 * large.request_bytes


def test_fuzzed_uploads_never_fail(client, images):
    rng = np.random.default_rng(0)
    jpeg = encode(np.random.default_rng(2).integers(0, 255, (40, 40, 3), dtype="uint8"), "JPEG")
    for i in range(40):
        data = bytearray(jpeg if i % 2 else images[i % 16])
        for position in rng.integers(0, len(data), 1 + i % 9):
            data[position] = rng.integers(256)
        response = post(client, ("a", bytes(data[: rng.integers(1, len(data) + 1)])), ("b", images[0]))
        assert response.status_code == 200
        assert response.json()["images"][1]["error"] is None


# --- access


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "1.2.3.4", "a b"]
)
def test_requests_for_other_hosts_are_refused(client, images, host):
    """A page whose name resolves to this machine (DNS rebinding) sends its own name."""
    for response in (
        client.get("/v1/model", headers={"host": host}),
        client.get("/healthz", headers={"host": host}),
    ):
        assert "--allow-host" in check_problem(response, 421, "unknown-host")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:8000", "LOCALHOST:8000"])
def test_names_of_this_machine_are_allowed(client, host):
    assert client.get("/v1/model", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_requests_of_other_sites_are_refused(client, images, headers):
    check_problem(post(client, ("a", images[0]), headers=headers), 403, "cross-origin")
    check_problem(client.get("/v1/model", headers=headers), 403, "cross-origin")


def test_requests_of_the_same_site_are_answered(client, images):
    headers = {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}
    assert post(client, ("a", images[0]), headers=headers).status_code == 200


def test_browsers_are_restricted(client):
    for path in ("/v1/model", "/healthz", "/unknown"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize("name", ["lab.example", "Lab.Example:8443", "fd00::1", "[fd00::1]:8443"])
def test_names_that_are_allowed_may_have_a_port(name):
    """The message about an unknown host shows the header, which has a port."""
    host = (f"[{name}]" if name == "fd00::1" else name).removesuffix(":8443")
    for header in (host, f"{host}:8443", f"{host}:9000"):
        assert not AccessPolicy.for_address("127.0.0.1").allows_host(header)
        assert AccessPolicy.for_address("127.0.0.1", [name]).allows_host(header)


@pytest.mark.parametrize("host", ["localhost", "Localhost", "127.0.0.2", "::1"])
def test_addresses_of_this_machine_need_no_token(host):
    assert AccessPolicy.for_address(host).token is None


def test_other_addresses_need_the_token(model, images):
    policy = AccessPolicy.for_address("0.0.0.0", ["lab.example"])
    assert len(policy.token) >= 32 and policy.token != AccessPolicy.for_address("0.0.0.0").token
    with TestClient(make_service(model, policy=policy), base_url="http://lab.example") as client:
        assert client.get("/healthz").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"cookie": "tlfeatures_token=wrong"},
            {"cookie": "\t"},
        ):
            check_problem(client.get("/v1/model", headers=headers), 401, "token-required")
        response = post(client, ("a", images[0]), headers={"authorization": f"Bearer {policy.token}"})
        assert response.status_code == 200
        response = client.get(f"/?token={policy.token}", follow_redirects=False)
        assert response.status_code == 303 and response.headers["location"] == "/"
        cookie = response.headers["set-cookie"]
        assert "SameSite=Strict" in cookie and "HttpOnly" in cookie
        assert client.get("/v1/model").status_code == 200  # with the cookie
        client.cookies.clear()
        for others in ('prefs={"a":1}', "a b", "=", 'x="'):  # cookies of other services on this host
            headers = {"cookie": f"{others}; {cookie.partition(';')[0]}; other=1"}
            assert client.get("/v1/model", headers=headers).status_code == 200
        check_problem(client.get(f"/v1/model?token={policy.token}"), 401, "token-required")
        assert client.get("/healthz", headers={"host": "10.0.0.1:8000"}).status_code == 200
        assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 421


# --- connections


@contextlib.contextmanager
def run_in_thread(service, limits):
    """Run the service on a free port; yield the address and the server of uvicorn."""
    server = make_server(service, limits)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        try:
            yield sock.getsockname(), server
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def read_all(connection):
    """Read until the other side closes the connection."""
    connection.settimeout(60)
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_slow_clients_are_disconnected(model):
    limits = Limits(header_seconds=0.2)
    with run_in_thread(make_service(model, limits=limits), limits) as (address, _):
        for start in (b"", b"POST /v1/predict HTTP/1.1\r\nHost: loc"):
            with socket.create_connection(address) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(start)  # an error if this is late
                assert read_all(connection) == b""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    limits = Limits(header_seconds=2, body_seconds=0.2)  # all headers arrive in time, also on a busy machine
    with run_in_thread(make_service(model, limits=limits), limits) as (address, _):
        with socket.create_connection(address) as connection:
            connection.sendall(head + b"x" * 10)
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"did not arrive within 0.2 s" in answer
        with socket.create_connection(address) as connection:  # the second request of a connection
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.settimeout(60)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"GET /heal")
            read_all(connection)


def test_clients_that_disconnect_are_not_an_error_of_the_service(model):
    service = make_service(model)
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with run_in_thread(service, Limits()) as (address, _):
        with socket.create_connection(address) as connection:
            connection.sendall(head + b"x" * 10)
        metrics = service.state.service.metrics
        wait_until(lambda: 'path="/v1/predict"' in metrics.format())
    assert 'path="/v1/predict",status="400"} 1' in metrics.format()
    assert service.state.service.budget.used == 0


def test_clients_that_do_not_read_the_answer_are_disconnected():
    size = 64 << 20  # more than the buffers of a connection

    async def service(scope, receive, send):
        if scope["type"] == "lifespan":
            for name in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{name}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    limits = Limits(body_seconds=0.5)
    with run_in_thread(service, limits) as (address, server), socket.create_connection(address) as connection:
        connection.sendall(request)
        wait_until(lambda: server.server_state.total_requests == 1)
        wait_until(lambda: not server.server_state.connections)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 20):
                received += len(data)
        assert received < size


def test_garbage_instead_of_a_request_is_refused(model):
    with run_in_thread(make_service(model), Limits()) as (address, _):
        two_hosts = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        tls = b"\x16\x03\x01\x02\0\x01\0\r\n\r\n"
        for garbage in (b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", tls, two_hosts):
            with socket.create_connection(address) as connection:
                connection.sendall(garbage)
                assert read_all(connection).startswith(b"HTTP/1.1 400 ")
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_accepted_requests_are_answered_before_the_server_stops(model, images):
    started, proceed = threading.Event(), threading.Event()

    class BlockedModel:
        batch_size, about = 4, model.about

        def compute(self, task, images):
            started.set()
            proceed.wait(60)
            return model.compute(task, images)

    body = json.dumps({"images": [{"data": base64.b64encode(images[0]).decode()}]}).encode()
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    )
    with (
        run_in_thread(make_service(BlockedModel()), Limits()) as (address, server),
        socket.create_connection(address) as connection,
    ):
        connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        assert started.wait(60)
        server.should_exit = True
        wait_until(lambda: not can_connect(address))
        proceed.set()
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"prediction": "dark"' in answer


def can_connect(address):
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- command line


def test_missing_packages_are_named(model_file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", str(model_file)]) == 1
    assert "need fastapi, an optional package: pip install 'tlfeatures[app]'" in capsys.readouterr().err


def test_port_in_use_is_reported_before_the_model_is_loaded(model_file, capsys):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert main(["serve", str(model_file), "--port", str(port)]) == 1
    assert f"Cannot bind port {port} of 127.0.0.1" in capsys.readouterr().err
    assert main(["serve", str(model_file), "--host", "192.0.2.1"]) == 1  # the address of no machine
    assert "--host must be an address of this machine" in capsys.readouterr().err
    assert main(["serve", str(model_file), "--host", ""]) == 2
    assert "--host must be an address or a name; got an empty string" in capsys.readouterr().err
    assert main(["serve", "missing.joblib"]) == 2
    assert "No such file: 'missing.joblib'" in capsys.readouterr().err


@pytest.mark.slow
def test_model_that_workers_cannot_load_is_one_error(pipeline, tmp_path, capfd):
    save(pipeline, tmp_path / "model.tlf")
    content = bytearray((tmp_path / "model.tlf").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "model.tlf").write_bytes(content)
    assert main(["serve", str(tmp_path / "model.tlf"), "--workers", "2", "--port", "0"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "model.tlf' is damaged" in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--workers", "2"]], ids=["token", "workers"])
def test_command(model_file, images, options):
    code = "import sys; from tlfeatures.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", str(model_file), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+", process.stdout.readline())[0].replace("0.0.0.0", "127.0.0.1")
            headers = {}
            if "--host" in options:
                token = process.stdout.readline().rsplit(" ", 1)[1].strip()
                headers = {"Authorization": f"Bearer {token}"}
            wait_until(lambda: is_healthy(url), 300)
            body = json.dumps({"images": [{"data": base64.b64encode(images[0]).decode()}]}).encode()
            headers |= {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/v1/predict", body, headers)
            for _ in range(5):
                with urllib.request.urlopen(request, timeout=60) as response:
                    assert json.load(response)["images"][0]["prediction"] == "dark"
            process.terminate()
            assert process.wait(300) == 0, process.stderr.read()
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def is_healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=60) as response:
            return response.status == 200
    except OSError:
        return False


# --- queue


def run_queue(compute, *submissions, batch_size=4, capacity=100, wait=None, **kwargs):
    """Submit lists of (task, images) at the same time; return the answers, or the exceptions."""
    queue = BatchQueue(compute, batch_size, capacity, **kwargs)

    async def main():
        queue.start()
        try:
            tasks = [asyncio.ensure_future(queue.submit(*each)) for each in submissions]
            if wait is not None:
                await asyncio.sleep(0)  # until all are submitted
                wait.set()
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await asyncio.to_thread(queue.stop)

    return asyncio.run(main())


def test_images_of_several_requests_are_computed_in_one_batch():
    sizes, ready = [], threading.Event()

    def compute(task, images):
        ready.wait(60)
        sizes.append((task, len(images)))
        return [-image for image in images]

    answers = run_queue(
        compute, *((("a",), [i]) for i in range(7)), (("b",), [7, 8]), wait=ready, max_wait=0.5
    )
    assert answers == [[-i] for i in range(7)] + [[-7, -8]]
    assert all(n in (1, 2, 4) for _, n in sizes) and ("a", 4) in [(task[0], n) for task, n in sizes]
    assert sum(n for _, n in sizes) == 9
    assert list_batch_sizes(32) == [1, 2, 4, 8, 16, 32] and list_batch_sizes(1) == [1]


def test_full_queue_is_answered_at_once():
    ready = threading.Event()

    def compute(task, images):
        ready.wait(60)
        return images

    # a batch that is being computed has up to four images, and four wait
    answers = run_queue(compute, *(((), [i, i]) for i in range(5)), capacity=4, wait=ready, max_wait=0)
    assert any(isinstance(answer, QueueFull) for answer in answers)
    assert sum(isinstance(answer, list) for answer in answers) >= 2


def test_full_queue_is_503_with_retry_after(model, images):
    service = make_service(model)
    with TestClient(service, base_url="http://localhost") as client:
        service.state.service.queue.stop()
        response = post(client, ("a", images[0]))
        check_problem(response, 503, "queue-full")
        assert int(response.headers["retry-after"]) >= 1
        service.state.service.queue.start()
        assert post(client, ("a", images[0])).status_code == 200


def test_request_that_never_fits_into_the_queue_is_refused_for_good(model, images):
    with TestClient(
        make_service(model, limits=Limits(images=8, queue=2)), base_url="http://localhost"
    ) as client:
        response = post(client, *((str(i), images[i]) for i in range(3)))
        assert "more than 2 images" in check_problem(response, 413, "too-many-images")
        assert client.get("/v1/model").json()["limits"]["images"] == 2


def test_memory_for_bodies_is_limited(model, images):
    service = make_service(model, limits=Limits(memory_bytes=1000))
    with TestClient(service, base_url="http://localhost") as client:
        for _ in range(2):
            response = client.post("/v1/predict", content=b"x" * 1001)
            check_problem(response, 503, "out-of-memory")
            assert response.headers["retry-after"]
        check_problem(client.post("/v1/predict", content=b"x" * 900), 415, "unsupported-media-type")
    assert service.state.service.budget.used == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_unexpected_error_is_an_error_of_one_image(caplog):
    def compute(task, images):
        if 3 in images:
            raise MemoryError
        return images

    (answers,) = run_queue(compute, ((), [1, 2, 3, 4]))
    assert [answers[i] for i in (0, 1, 3)] == [1, 2, 4] and isinstance(answers[2], MemoryError)


def test_images_of_cancelled_requests_are_skipped():
    computed, ready = [], threading.Event()

    def compute(task, images):
        ready.wait(60)
        computed.extend(images)
        return images

    async def main():
        queue = BatchQueue(compute, 1, 10, max_wait=0)
        queue.start()
        first = asyncio.ensure_future(queue.submit((), [1]))
        second = asyncio.ensure_future(queue.submit((), [2]))
        third = asyncio.ensure_future(queue.submit((), [3]))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        ready.set()
        assert await first == [1] and await third == [3]
        await asyncio.to_thread(queue.stop)

    asyncio.run(main())
    assert computed == [1, 3]


def test_images_of_cancelled_requests_leave_room_for_others():
    computed, is_computing, ready = [], threading.Event(), threading.Event()

    def compute(task, images):
        is_computing.set()
        ready.wait(60)
        computed.extend(images)
        return images

    async def main():
        queue = BatchQueue(compute, 1, 2, max_wait=0)
        queue.start()
        first = asyncio.ensure_future(queue.submit((), [1]))
        assert await asyncio.to_thread(is_computing.wait, 60)
        cancelled = asyncio.ensure_future(queue.submit((), [2, 3]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        with pytest.raises(QueueFull):
            await queue.submit((), [4, 5, 6])
        live = asyncio.ensure_future(queue.submit((), [7, 8]))
        await asyncio.sleep(0)
        ready.set()
        assert await first == [1] and await live == [7, 8]
        await asyncio.to_thread(queue.stop)

    asyncio.run(main())
    assert computed == [1, 7, 8]


def test_a_batch_of_cancelled_images_that_another_request_removed():
    computed = []

    def compute(task, images):
        computed.extend(images)
        return images

    async def main():
        queue = BatchQueue(compute, 4, 4, max_wait=0.2)
        queue.start()
        cancelled = asyncio.ensure_future(queue.submit((), [1]))
        await asyncio.sleep(0.05)  # the thread waits for more images
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        with pytest.raises(QueueFull):
            await queue.submit((), range(5))
        await asyncio.sleep(0.3)
        assert await asyncio.wait_for(queue.submit((), [2]), 60) == [2]
        await asyncio.to_thread(queue.stop)

    asyncio.run(main())
    assert computed == [2]


def test_accepted_images_are_computed_before_the_queue_stops():
    async def main():
        queue = BatchQueue(lambda task, images: (time.sleep(0.01), images)[1], 1, 100)
        queue.start()
        tasks = [asyncio.ensure_future(queue.submit((), [i])) for i in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(queue.stop)
        assert await asyncio.gather(*tasks) == [[i] for i in range(5)]
        with pytest.raises(QueueFull):
            await queue.submit((), [1])

    asyncio.run(main())


def test_histograms_are_cumulative():
    metrics = Metrics(["/"])
    for seconds in (0.005, 0.05, 100):
        metrics.add_request("/", 200, seconds)
    lines = [line for line in metrics.format().splitlines() if "request_seconds_bucket" in line]
    counts = [int(line.rsplit(" ", 1)[1]) for line in lines]
    assert counts[0] == 1 and counts[-1] == 3 and counts == sorted(counts)
