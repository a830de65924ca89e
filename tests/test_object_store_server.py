"""Images and stores in a bucket: a server of the S3 protocol on the loopback address, with faults on demand."""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from urllib.parse import unquote

import numpy as np
import pytest

from tests.image_helpers import encode
from tlfeatures import CNNFeatures, EmbeddingStore, _files, _object_digests
from tlfeatures._objects import list_objects, read_object, write_object
from tlfeatures.cli import main
from tlfeatures.errors import ObjectStorageError, SourceError, TransientReadError
from tlfeatures.sources import read_source

pytestmark = pytest.mark.slow
moto_server = pytest.importorskip("moto.server")


class Proxy:
    """Forward requests to a server; ``fault`` may answer some of them instead, with a status or by a reset."""

    def __init__(self, host, port):
        self.requests, self.fault, self.lock = [], None, threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy.lock:
                    proxy.requests.append((self.command, unquote(self.path)))
                    status = proxy.fault and proxy.fault(self.command, unquote(self.path))
                if status == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                if status:
                    code = {503: "SlowDown", 403: "AccessDenied"}[status]
                    answer = f"<Error><Code>{code}</Code><Message>secret-detail</Message></Error>".encode()
                    headers = []
                else:
                    upstream = http.client.HTTPConnection(host, port, timeout=60)
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    response = upstream.getresponse()
                    status, answer, headers = response.status, response.read(), response.getheaders()
                    upstream.close()
                self.send_response(status)
                is_head = self.command == "HEAD"
                dropped = {"connection", "date", "server", "transfer-encoding"}
                dropped |= set() if is_head else {"content-length"}
                for name, value in headers:
                    if name.lower() not in dropped:
                        self.send_header(name, value)
                if not is_head or not headers:
                    self.send_header("Content-Length", str(0 if is_head else len(answer)))
                self.end_headers()
                if not is_head:
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_PUT = do_DELETE = handle_any

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args):  # a client has closed its connection
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def gets(self):
        """Return the names of the objects that were read."""
        return [path for method, path in self.requests if method == "GET" and "list-type=2" not in path]

    def count(self, method, part=""):
        return sum(m == method and part in path for m, path in self.requests)


@pytest.fixture(scope="module")
def proxy():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(host, port)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()
    server.stop()


@pytest.fixture
def bucket(proxy, monkeypatch, request):
    """The URI of an empty bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "top-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(_files, "_RETRY_SECONDS", (0.01, 0.02, 0.03))
    monkeypatch.setattr(_object_digests, "_TRUSTED_SECONDS", 3600.0)  # also on a slow machine
    proxy.fault = None
    name = f"bucket-{zlib.crc32(request.node.nodeid.encode())}"
    send_put(proxy, name)
    forget(proxy)
    return f"s3://{name}"


def send_put(proxy, name):
    """Send what the library cannot: it does not make buckets, and does not write names with empty parts."""
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=60)
    authorization = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, "
    authorization += "SignedHeaders=host, Signature=0"
    connection.request("PUT", f"/{name}", b"", headers={"Authorization": authorization})
    assert connection.getresponse().status == 200
    connection.close()


def forget(proxy):
    """Forget requests and digests, as a new process does."""
    _object_digests._stamps.clear()
    _object_digests._digests.clear()
    proxy.requests.clear()


def image(seed):
    return encode(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), "u1"), "PNG")


def fill(bucket, names):
    for i, name in enumerate(names):
        write_object(f"{bucket}/{name}", image(i))
    return [f"{bucket}/{name}" for name in names]


NAMES = [f"pets/{label}/{i:02}.png" for label in ("cat", "dog") for i in range(12)]


@pytest.fixture(scope="module")
def expected():
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    return cnn.fit_transform([image(i) for i in range(len(NAMES))])


def test_a_bucket_of_2500_objects_is_listed_in_pages_and_a_failed_page_is_repeated(proxy, bucket):
    from concurrent.futures import ThreadPoolExecutor

    names = [f"big/class {i % 5}/{i}.jpg" for i in range(2500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_object(f"{bucket}/{name}", b"x"), names))
    forget(proxy)
    source = read_source(f"{bucket}/big")
    assert len(source) == 2500 and source.kind == "class folders"
    assert sorted(source.names) == sorted(name.removeprefix("big/") for name in names)
    assert source.names[:2] == ["class 0/0.jpg", "class 0/5.jpg"]  # natural order
    assert proxy.count("GET", "list-type=2") == 3 == len(proxy.requests)
    failures = iter([None, 503, 503, None, "reset"])
    proxy.fault = lambda method, path: next(failures, None)
    assert read_source(f"{bucket}/big").names == source.names


def test_names_with_spaces_unicode_and_other_characters(proxy, bucket):
    names = ["ü/ß 1.png", "ü/100%.png", "ü/a+b&c#d?.png", "x/%20.png", "x/[1].png", "x/~*'.png", "x/日本.png"]
    uris = fill(bucket, names)
    source = read_source(bucket)
    assert sorted(source.names) == sorted(names) and sorted(source.images) == sorted(uris)
    manifest = "path,label\n" + "".join(f'"{uri}",a\n' for uri in uris) + "x/[1].png,b\n"
    write_object(f"{bucket}/list.csv", manifest.encode())
    listed = read_source(f"{bucket}/list.csv")
    assert listed.images == [*uris, f"{bucket}/x/[1].png"]
    features = CNNFeatures("tiny", image_size=32, cache=None).fit_transform(listed.images)
    assert np.isfinite(features).all() and len(np.unique(features, axis=0)) == len(names)


def test_a_second_run_of_embed_reads_no_object(proxy, bucket, tmp_path, capsys, expected):
    fill(bucket, NAMES)
    command = ["embed", f"{bucket}/pets", "--model", "tiny", "--image-size", "32", "--force"]
    command += ["--cache", str(tmp_path / "store"), "-o", str(tmp_path / "x.npy")]
    forget(proxy)
    assert main(command) == 0
    assert len(proxy.gets()) == len(NAMES) == len(set(proxy.gets())) and proxy.count("HEAD") == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, rtol=1e-4, atol=1e-5)
    forget(proxy)
    assert main(command) == 0
    assert proxy.gets() == [] and [method for method, _ in proxy.requests] == ["GET"]  # one listing
    write_object(f"{bucket}/{NAMES[5]}", image(99))
    forget(proxy)
    assert main([*command, "--json"]) == 0
    assert len(proxy.gets()) == 1 and NAMES[5] in proxy.gets()[0]
    changed = (np.load(tmp_path / "x.npy") != expected).any(axis=1)
    assert np.abs(np.load(tmp_path / "x.npy") - expected).max(axis=1).argmax() == 5 and changed[5]
    uris = [f"{bucket}/{name}" for name in NAMES]
    forget(proxy)
    CNNFeatures("tiny", image_size=32, cache=tmp_path / "store").fit_transform(uris)  # no listing
    assert proxy.gets() == [] and proxy.count("HEAD") == len(uris)
    forget(proxy)
    other = [
        *command,
        "--layer",
        "block6_pw_relu",
    ]  # another network or layer: each object is read once, to be decoded
    assert main(other) == 0 and len(proxy.gets()) == len(uris)
    forget(proxy)
    fit = [
        "fit",
        f"{bucket}/pets",
        "--model",
        "tiny",
        "--image-size",
        "32",
        "--cache",
        str(tmp_path / "store"),
    ]
    assert main([*fit, "--head", "ridge", "--cv", "2"]) == 0 and proxy.gets() == []


@pytest.mark.parametrize("fault", [503, "reset"])
def test_an_outage_in_mid_run_gives_no_row_of_nan_and_the_next_run_resumes(
    proxy, bucket, tmp_path, capsys, expected, fault, monkeypatch
):
    from tlfeatures.distributed import _unit_results

    monkeypatch.setattr(_unit_results, "CHUNK_ROWS", 4)
    fill(bucket, NAMES)
    output = tmp_path / "x.npy"
    command = ["embed", f"{bucket}/pets", "--model", "tiny", "--image-size", "32", "--batch-size", "4"]
    command += ["--cache", str(tmp_path / "store"), "-o", str(output)]
    forget(proxy)
    proxy.fault = lambda method, path: fault if "/dog/0" in path else None
    assert main(command) == 1
    error = capsys.readouterr().err
    assert (
        "in 4 attempts" in error
        and "Repeat the command or function call later" in error
        and not output.exists()
    )
    proxy.fault = None
    forget(proxy)
    assert main(command) == 0
    np.testing.assert_allclose(np.load(output), expected, rtol=1e-4, atol=1e-5)
    assert len(proxy.gets()) < len(NAMES) and not [path for path in proxy.gets() if "/cat/0" in path]
    cnn = CNNFeatures("tiny", image_size=32, cache=None, on_error="nan")
    proxy.fault = lambda method, path: fault if NAMES[3] in path else None
    with pytest.raises(TransientReadError, match="does not count as an unreadable file"):
        cnn.fit_transform([f"{bucket}/{name}" for name in NAMES])


def test_throttling_that_ends_is_invisible(proxy, bucket, expected):
    uris = fill(bucket, NAMES)
    forget(proxy)
    counts = {}

    def throttle(method, path):
        counts[path] = counts.get(path, 0) + 1
        return 503 if counts[path] < 3 else None

    proxy.fault = throttle
    features = CNNFeatures("tiny", image_size=32, cache=None).fit_transform(uris)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_denied_access_and_missing_buckets_are_errors_of_the_whole_run(proxy, bucket, tmp_path, capsys):
    uris = fill(bucket, NAMES[:3])
    cnn = CNNFeatures("tiny", image_size=32, cache=None, on_error="nan")
    proxy.fault = lambda method, path: 403
    with pytest.raises(ObjectStorageError, match=r"403 AccessDenied. Set AWS_ACCESS_KEY_ID and") as caught:
        cnn.fit_transform(uris)
    assert "top-secret" not in str(caught.value) and "secret-detail" not in str(caught.value)
    output = str(tmp_path / "x.npy")
    assert main(["embed", bucket, "--model", "tiny", "-o", output]) == 1
    error = capsys.readouterr().err
    assert "AWS_ENDPOINT_URL" in error and bucket in error and len(error.strip().splitlines()) == 1
    proxy.fault = None
    for read in (cnn.fit_transform, lambda uris: read_source(uris[0].rpartition("/")[0])):
        with pytest.raises(ObjectStorageError, match="there is no such bucket"):
            read(["s3://no-such-bucket/a.jpg"])
    with pytest.raises(SourceError, match="No folder or bucket"):
        read_source(f"{bucket}/none")


def test_a_missing_object_is_a_row_with_its_name(proxy, bucket, tmp_path, capsys):
    uris = fill(bucket, NAMES[:3])
    (tmp_path / "m.csv").write_text("path\n" + "\n".join([uris[0], f"{bucket}/none.png", uris[2]]))
    output = tmp_path / "x.npy"
    assert main(["embed", str(tmp_path / "m.csv"), "--model", "tiny", "-o", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == {f"{bucket}/none.png": "no such file"}
    assert np.isnan(np.load(output)).all(axis=1).tolist() == [False, True, False]


def test_fit_and_predict_take_uris(proxy, bucket, tmp_path, capsys):
    fill(bucket, NAMES)
    model, table = str(tmp_path / "pets.joblib"), tmp_path / "predictions.csv"
    options = ["--model", "tiny", "--image-size", "32", "--cache", str(tmp_path / "store")]
    assert main(["fit", f"{bucket}/pets", *options, "--head", "ridge", "--cv", "2", "-o", model]) == 0
    assert main(["predict", model, f"{bucket}/{NAMES[0]}", f"{bucket}/pets/dog", "-o", str(table)]) == 0
    lines = table.read_text().splitlines()
    assert len(lines) == 1 + 1 + 12 and lines[1].startswith(f"{bucket}/{NAMES[0]},")
    with open(model, "rb") as file:
        assert b"top-secret" not in file.read()


def test_names_that_cannot_be_read_are_reported(proxy, bucket):
    uri = f"{bucket}/a//b.png"
    cnn = CNNFeatures("tiny", image_size=32, cache=None, on_error="nan")
    with pytest.warns(UserWarning, match=r"the name 'a//b.png' has an empty part"):
        assert np.isnan(cnn.fit_transform([uri])).all()
    send_put(proxy, f"{bucket}/a//b.png".removeprefix("s3://"))
    with pytest.raises(SourceError, match=r"Cannot list '.*': the name 'a//b.png' has an empty part"):
        read_source(bucket)
    proxy.fault = lambda method, path: 503
    with pytest.raises(TransientReadError, match="the server answered 503"):
        read_source(bucket)


RECIPE = {"network": "toy", "width": 64, "dtype": "float32"}
KEYS = np.random.default_rng(0).integers(0, 256, (200, 16), "u1")
ROWS = np.random.default_rng(1).normal(size=(200, 64)).astype("f4")


@pytest.fixture
def filled(store):
    for i in range(0, 200, 10):
        store.publish(RECIPE, KEYS[i : i + 10], ROWS[i : i + 10])
    store.put_sidecar({"model": "a"}, {"width": 8})
    return store


def test_push_and_pull_a_store(proxy, bucket, filled, tmp_path):
    url = f"{bucket}/shared/embeddings"
    pushed = filled.push(url)
    assert (pushed["segments"], pushed["files"], pushed["damaged"]) == (20, 22, [])
    proxy.requests.clear()
    assert filled.push(url)["files"] == 0 and {method for method, _ in proxy.requests} == {"GET"}
    other = EmbeddingStore(tmp_path / "other")
    assert other.pull(url)["segments"] == 20
    rows, is_stored = other.get(RECIPE, KEYS)
    assert is_stored.all() and other.get_sidecar({"model": "a"}) == {"width": 8}
    np.testing.assert_array_equal(rows, ROWS)


def test_damaged_objects_of_a_store_are_reported_and_not_published(proxy, bucket, filled, tmp_path, capsys):
    filled.push(bucket)
    first, second = sorted(name for name, _ in list_objects(bucket) if name.endswith(".h5"))[:2]
    content, _ = read_object(f"{bucket}/{first}")
    write_object(f"{bucket}/{first}", content[:-1] + bytes([content[-1] ^ 1]))
    write_object(f"{bucket}/{second}", content[:100])
    other = EmbeddingStore(tmp_path / "other")
    assert main(["cache", "pull", bucket, str(other.root), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in report["damaged"]] == [f"{bucket}/{first}", f"{bucket}/{second}"]
    assert report["segments"] == 18 and other.verify() == []
    assert filled.push(bucket)["segments"] == 1  # the truncated one; the other has the right size
    proxy.fault = lambda method, path: 503 if method == "GET" and "list-type" not in path else None
    with pytest.raises(TransientReadError, match="in 4 attempts"):
        EmbeddingStore(tmp_path / "third").pull(bucket)


def test_a_push_that_is_killed_is_completed_by_the_next_one(proxy, bucket, filled):
    waiting, killed = threading.Event(), threading.Event()

    def wait(method, path):
        if method == "PUT" and path.endswith(".h5") and len(proxy.requests) > 8:
            waiting.set()
            killed.wait(120)

    proxy.fault = wait
    code = f"from tlfeatures import EmbeddingStore; EmbeddingStore({str(filled.root)!r}).push({bucket!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    assert waiting.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    n_copied = sum(name.endswith(".h5") for name, _ in list_objects(bucket))
    result = filled.push(bucket)
    assert (
        n_copied > 0 and 0 < result["segments"] <= 20 - n_copied
    )  # requests of the killed process may still arrive
    for name, _ in list_objects(bucket):
        assert read_object(f"{bucket}/{name}")[0] == (filled.root / name).read_bytes()
