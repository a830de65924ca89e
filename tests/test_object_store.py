"""Images and stores by URI, without a server: file:// URIs go through the same code as buckets."""

from __future__ import annotations

import http.server
import os
import pickle
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from tests.dicom_helpers import encode_dicom
from tests.image_helpers import SAMPLE, encode
from tests.warning_helpers import of_test
from tlfeatures import CNNFeatures, _files, _object_digests, _objects
from tlfeatures.audio import LogMelSpectrogram
from tlfeatures.distributed import LocalEngine, embed_images
from tlfeatures.errors import (
    AudioReadError,
    ImageReadError,
    MissingDependencyError,
    ObjectStorageError,
    SourceError,
    TransientReadError,
    UnreadableImagesWarning,
)
from tlfeatures.images import Decoder, Images
from tlfeatures.sources import read_dicom_groups, read_items, read_source

NAMES = ["Cat/1.png", "Cat/deep/er/2.png", "cat10/a b.png", "cat2/50%.png", "dog/10.png", "dog/9 ü.png"]


def fill(root, names):
    """Write a different image under each name, with a time of change that does not count as fresh."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, i)
    return root


def write(path, seed, seconds_ago=60):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), "u1")
    path.write_bytes(encode(pixels, "PNG"))
    os.utime(path, (time.time() - seconds_ago,) * 2)


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "my images", NAMES)


@pytest.fixture
def requests(monkeypatch):
    """The requests that are made, as (function, URI)."""
    made = []
    for module, name in (
        (_object_digests, "read_object"), (_object_digests, "stat_object"),
    ):  # fmt: skip
        original = getattr(module, name)

        def record(uri, *args, name=name, original=original):
            made.append((name, uri))
            return original(uri, *args)

        monkeypatch.setattr(module, name, record)
    monkeypatch.setattr(_object_digests, "_TRUSTED_SECONDS", 3600.0)  # also on a slow machine
    _object_digests._stamps.clear()
    _object_digests._digests.clear()
    return made


def test_folders_by_uri_are_read_as_local_folders(folder):
    local, remote = read_source(folder), read_source(folder.as_uri())
    assert remote.names == local.names and remote.kind == "class folders"
    assert remote.y.tolist() == local.y.tolist() == ["Cat", "Cat", "cat2", "cat10", "dog", "dog"]
    assert remote.images[3] == f"{folder.as_uri()}/cat10/a%20b.png"
    assert (Images.of(remote.images).keys()[0] == Images.of(local.images).keys()[0]).all()
    assert read_source(folder.as_uri() + "/dog/").kind == "flat folder"
    assert read_source(folder.as_uri(), labels=False).kind == "flat folder"


def test_split_folders_hidden_files_and_files_without_suffix_are_read_as_local_ones(tmp_path):
    names = [
        "train/a/1.png",
        "train/b/2.png",
        "test/a/3",
        "test/b/6.png",
        ".hidden/x/4.png",
        "train/b/.5.png",
    ]
    root = fill(tmp_path, names)
    (root / "train" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    with pytest.warns(UserWarning, match=r"1 file\(s\) in '.*' are not images") as caught:
        local, remote = read_source(root), read_source(root.as_uri())
    assert len(of_test(caught)) == 2
    assert remote.names == local.names == ["train/a/1.png", "train/b/2.png", "test/a/3", "test/b/6.png"]
    assert remote.split.tolist() == ["train", "train", "test", "test"]
    assert remote.y.tolist() == ["a", "b", "a", "b"]
    with pytest.warns(UserWarning, match="are not images"):
        assert remote.ignored == read_source(root.as_uri()).ignored


def test_manifests_have_uris_or_paths_relative_to_their_own_folder(folder, tmp_path):
    table = f"path,label\n{folder.as_uri()}/Cat/1.png,a\ndog/10.png,b\n"
    (folder / "m.csv").write_text(table)
    source = read_source(f"{folder.as_uri()}/m.csv")
    assert source.images == [f"{folder.as_uri()}/Cat/1.png", f"{folder.as_uri()}/dog/10.png"]
    assert source.y.tolist() == ["a", "b"] and source.kind == "manifest"
    (tmp_path / "local.csv").write_text(table.replace("dog/10.png", "my images/dog/10.png"))
    local = read_source(tmp_path / "local.csv")
    assert local.images[0].startswith("file://") and local.images[1] == str(folder / "dog/10.png")
    assert Images.of(local.images).keys()[1] == {}


def test_single_images_and_predict_items_may_be_uris(folder):
    uri = f"{folder.as_uri()}/dog/9%20%C3%BC.png"
    assert read_source(uri).images == [uri]
    (merged,) = read_items([uri, folder / "dog" / "10.png", f"{folder.as_uri()}/Cat"])
    assert len(merged) == 4
    with pytest.raises(SourceError, match=r"No such object: '.*none.png'"):
        read_source(f"{folder.as_uri()}/none.png")
    with pytest.raises(SourceError, match=r"No folder or bucket .*, or it is empty"):
        read_source(f"{folder.as_uri()}/none")
    with pytest.raises(SourceError, match=r"HDF5 files are not read from object storage. Download"):
        read_source(f"{folder.as_uri()}/x.h5")
    with pytest.raises(SourceError, match=r"target='y' names a column .* is a folder"):
        read_source(folder.as_uri(), target="y")


def test_missing_empty_and_damaged_objects_are_errors_of_one_image(folder):
    (folder / "empty.png").write_bytes(b"")
    (folder / "damaged.png").write_bytes((folder / "dog/10.png").read_bytes()[:80])
    (folder / "text.png").write_text("not an image")
    uris = [
        f"{folder.as_uri()}/{n}" for n in ("dog/10.png", "none.png", "empty.png", "damaged.png", "text.png")
    ]
    _, errors = Images.of(uris).keys()
    assert errors == {1: "no such file", 2: "the object is empty"}
    cnn = CNNFeatures("tiny", image_size=32, cache=None, on_error="nan")
    with pytest.warns(UserWarning, match="4 of 5 images could not be read"):
        features = cnn.fit_transform(uris)
    assert np.isnan(features).all(axis=1).tolist() == [False, True, True, True, True]
    with pytest.raises(ImageReadError, match="cannot read 4 of 5 images"):
        CNNFeatures("tiny", image_size=32, cache=None).fit_transform(uris)


def test_an_object_whose_name_cannot_be_read_is_the_error_of_one_image(folder, tmp_path):
    uris = [f"{folder.as_uri()}/Cat/1.png", f"{folder.as_uri()}/Cat/../Cat/1.png"]
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store", on_error="nan").fit(uris[:1])
    with pytest.warns(UnreadableImagesWarning, match=r"1 of 2 images.*has an empty part, '\.' or '\.\.'"):
        assert np.isnan(cnn.transform(uris)).all(axis=1).tolist() == [False, True]
    for _ in range(2):
        with pytest.warns(UnreadableImagesWarning, match="1 of 2 images"):
            assert list(embed_images(uris, cnn).errors) == [1]


def test_each_object_is_read_once_and_never_again_while_its_etag_stays(folder, tmp_path, requests):
    uris = read_source(folder.as_uri()).images
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store", n_jobs=1)
    expected = CNNFeatures("tiny", image_size=32, cache=None).fit_transform(read_source(folder).images)
    np.testing.assert_array_equal(cnn.fit_transform(uris), expected)
    assert sorted(requests) == sorted(("read_object", uri) for uri in uris)
    requests.clear()
    cnn.fit_transform(uris)  # the ETags of the last minute are trusted
    assert requests == []
    _object_digests._stamps.clear()
    _object_digests._digests.clear()  # as in a new process
    np.testing.assert_array_equal(cnn.fit_transform(uris), expected)
    assert sorted(requests) == sorted(("stat_object", uri) for uri in uris)
    requests.clear()
    _object_digests._stamps.clear()
    _object_digests._digests.clear()
    np.testing.assert_array_equal(cnn.fit_transform(read_source(folder.as_uri()).images), expected)
    assert requests == []  # the listing has the ETags


def test_a_changed_object_is_read_again(folder, tmp_path, requests):
    uris = read_source(folder.as_uri()).images
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store")
    before = cnn.fit_transform(uris)
    write(folder / "Cat" / "1.png", seed=99, seconds_ago=30)
    requests.clear()
    after = cnn.fit_transform(read_source(folder.as_uri()).images)
    assert requests == [("read_object", f"{folder.as_uri()}/Cat/1.png")]
    assert (before != after).any(axis=1).tolist() == [True] + [False] * 5


def test_a_changed_object_is_noticed_after_a_minute_however_often_it_is_used(folder, monkeypatch):
    _object_digests._stamps.clear()
    now, image = [0.0], Images.of([(folder / "Cat" / "1.png").as_uri()])
    monkeypatch.setattr(_object_digests, "time", SimpleNamespace(monotonic=lambda: now[0]))
    (before,) = image.keys()[0].tolist()
    write(folder / "Cat" / "1.png", seed=99, seconds_ago=30)
    for now[0], is_new in ((20.0, False), (40.0, False), (61.0, True)):
        assert (image.keys()[0].tolist() != [before]) == is_new


def test_chunks_of_objects_keep_the_order_and_the_frames_of_the_input(folder, tmp_path, monkeypatch):
    from tlfeatures.extract import _extraction

    monkeypatch.setattr(_extraction, "CHUNK_ROWS", 2)
    uris = read_source(folder.as_uri()).images
    mixed = [uris[4], str(folder / "Cat/1.png"), *uris[:3], SAMPLE, uris[0]]
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store", batch_size=2)
    local = [str(folder / "dog/9 ü.png"), str(folder / "Cat/1.png")]
    local += [str(folder / name) for name in ("Cat/1.png", "Cat/deep/er/2.png", "cat2/50%.png")]
    expected = CNNFeatures("tiny", image_size=32, cache=None).fit_transform([*local, SAMPLE, local[1]])
    np.testing.assert_allclose(cnn.fit_transform(mixed), expected, rtol=1e-5, atol=1e-6)
    assert Images.of([f"{uris[0]}[0]"]).key(0) == Images.of(uris).key(0)


def test_work_units_of_objects_resume_from_the_ledger_and_see_changes(folder, tmp_path, requests):
    uris = read_source(folder.as_uri()).images
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store")

    def run():
        _object_digests._stamps.clear()  # as in a new process
        _object_digests._digests.clear()
        requests.clear()
        return embed_images(uris, cnn, engine=LocalEngine(), unit_size=4)

    first = run()
    assert sorted({uri for _, uri in requests}) == sorted(uris)
    assert [name for name, _ in requests].count("read_object") == len(uris)
    np.testing.assert_array_equal(run().features, first.features)
    assert {name for name, _ in requests} == {"stat_object"}
    write(folder / "Cat" / "1.png", seed=99, seconds_ago=30)
    changed = run()
    assert ("read_object", uris[0]) in requests and changed.computed == 1
    assert (first.features != changed.features).any(axis=1).tolist() == [True] + [False] * 5


def test_clips_and_dicom_groups_by_uri(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a b.wav", np.sin(np.arange(8000) / 9), 8000)
    clips = [f"{tmp_path.as_uri()}/a%20b.wav", str(tmp_path / "a b.wav")]
    images = LogMelSpectrogram().fit_transform(clips)
    np.testing.assert_array_equal(images[0], images[1])
    with pytest.raises(AudioReadError, match=r"none.wav': no such file"):
        LogMelSpectrogram().fit_transform([f"{tmp_path.as_uri()}/none.wav"])
    pytest.importorskip("pydicom")
    for i, patient in enumerate("ABA"):
        (tmp_path / f"{i}.dcm").write_bytes(encode_dicom(np.eye(8, dtype="uint8"), PatientID=patient))
    uris = [f"{tmp_path.as_uri()}/{i}.dcm" for i in range(3)]
    assert read_dicom_groups(uris).tolist() == [0, 1, 0]


def test_uris_pickle_as_text_and_passwords_are_not_shown(folder):
    images = Images.of(read_source(folder.as_uri()).images)
    images.decode(0, Decoder((8, 8)))
    copy = pickle.loads(pickle.dumps(images))
    assert b"obstore" not in pickle.dumps(images) and copy.key(1) == images.key(1)
    with pytest.raises(
        ObjectStorageError, match="user names and passwords in URIs are not accepted"
    ) as caught:
        Images.of(["s3://AKIA:s3cret@bucket/a.jpg"]).keys()
    assert "s3cret" not in str(caught.value)
    signed = "https://host/a.jpg?X-Amz-Credential=AKIA&X-Amz-Signature=s3cret"
    assert Images.of([signed]).name(0) == "https://host/a.jpg?..."
    assert Images.of([signed]).paths() == [signed]


def test_a_missing_library_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingDependencyError, match=r"need obstore.*pip install 'tlfeatures\[cloud\]'"):
        Images.of(["s3://bucket/a.jpg"]).keys()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_raises_instead_of_waiting_for_ever(folder):
    code = f"""
import os, sys
from tlfeatures.errors import ForkedProcessError
from tlfeatures.images import Images
uri = {folder.as_uri() + "/dog/10.png"!r}
Images.of([uri]).key(0)
pid = os.fork()
if pid == 0:
    try:
        Images.of([uri]).decode_with_note(0, None)
    except ForkedProcessError as error:
        os._exit(42 if "spawn" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=240).returncode == 42


class WebServer(http.server.BaseHTTPRequestHandler):
    """Answers /NUMBER with that status, /moved with a redirection, and other paths with an image."""

    content = encode(np.arange(24 * 24 * 3).reshape(24, 24, 3).astype("u1"), "PNG")
    requested: ClassVar[list[str]] = []

    def do_GET(self):
        if self.command == "GET":
            self.requested.append(self.path)
        name = self.path.strip("/").partition("?")[0]
        status = int(name) if name.isdigit() else 302 if name == "moved" else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/a%20b.png?size=2")
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.content)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(_files, "_RETRY_SECONDS", (0.01, 0.01, 0.01))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    WebServer.requested.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_on_web_servers(web, tmp_path):
    uris = [
        f"{web}/{name}"
        for name in ("a%20b.png", "moved", "x//y%2Fz.png?X-Amz-Signature=s3cret", "404", "410")
    ]
    keys, errors = Images.of(uris).keys()
    assert errors == {3: "no such file", 4: "no such file"}
    assert len(np.unique(keys[:3], axis=0)) == 1
    assert "/x//y%2Fz.png?X-Amz-Signature=s3cret" in WebServer.requested
    (tmp_path / "m.csv").write_text(f"path\n{uris[2]}\n")
    source = read_source(tmp_path / "m.csv")
    assert source.images == [uris[2]] and "s3cret" not in f"{source.paths} {source.names}"
    with pytest.raises(
        ObjectStorageError, match=r"the server answered 401. Pass a URL that can be read without"
    ):
        Images.of([f"{web}/401"]).keys()
    with pytest.raises(TransientReadError, match="the server answered 503, in 4 attempts") as caught:
        Images.of([f"{web}/503"]).keys()
    assert WebServer.requested.count("/503") == 4 and isinstance(caught.value, OSError)
    with pytest.raises(ObjectStorageError, match=r"/403\?\.\.\.': the server answered 403") as caught:
        Images.of([f"{web}/403?token=s3cret"]).keys()
    assert "s3cret" not in str(caught.value)


def test_web_servers_are_not_listed():
    with pytest.raises(ObjectStorageError, match=r"web servers do not list their files. Pass a manifest"):
        read_source("https://host/folder/")


def test_missing_objects_are_not_read_again_while_they_are_missing(folder, tmp_path, requests):
    uris = [f"{folder.as_uri()}/{name}" for name in ("Cat/1.png", "none.png", "dog/10.png")]
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store", on_error="nan")
    for run in range(2):
        _object_digests._stamps.clear()  # as in a new process
        requests.clear()
        with pytest.warns(UserWarning, match="1 of 3 images could not be read"):
            result = embed_images(uris, cnn)
        assert result.errors == {1: "no such file"}
        reads = [uri for name, uri in requests if name == "read_object"]
        assert reads == ([] if run else uris)
    write(folder / "none.png", 9)
    _object_digests._stamps.clear()
    requests.clear()
    result = embed_images(uris, cnn)
    assert result.errors == {} and result.computed == 1
    assert [uri for name, uri in requests if name == "read_object"] == [uris[1]]


class CloudHandler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of any kind of object storage for one object."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list] = []

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.requests.append((self.path, self.headers.get("Authorization", "")))
        body = b"content" if "cat" in self.path else b""
        self.send_response(200 if body else 404)
        for name, value in (
            ("Content-Length", str(len(body))), ("ETag", '"e"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def cloud():
    """The address of the server of `CloudHandler`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), CloudHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(60)


@pytest.fixture
def settings(monkeypatch):
    """Return a function that sets the settings of object storage in the environment, and deletes all others."""

    def set_settings(**values):
        for name in list(os.environ):
            if name.startswith(_objects._SETTINGS):
                monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    monkeypatch.setattr(_files, "_RETRY_SECONDS", (0,))
    return set_settings


AZURE_KEY = {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"}
AWS_KEY = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}


@pytest.mark.parametrize(
    ("uri", "endpoint", "options", "path", "authorization"),
    [
        (
            "s3://pets/a/cat.jpg",
            "AWS_ENDPOINT_URL",
            AWS_KEY,
            "/pets/a/cat.jpg",
            "AWS4-HMAC-SHA256 Credential=me/",
        ),
        (
            "gs://pets/a/cat.jpg",
            "GOOGLE_BASE_URL",
            {"GOOGLE_SKIP_SIGNATURE": "true"},
            "/pets/a%2Fcat%2Ejpg",
            "",
        ),
        ("az://pets/a/cat.jpg", "AZURE_STORAGE_ENDPOINT", AZURE_KEY, "/pets/a/cat.jpg", "SharedKey me:"),
        (
            "az://pets/a/cat.jpg",
            "AZURE_STORAGE_ENDPOINT",
            {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=x"},
            "/pets/a/cat.jpg?sv=1&sig=x",
            "",
        ),
    ],
    ids=["s3", "gs", "az with key", "az with token"],
)
def test_uris_of_clouds_are_read_with_the_usual_environment(
    cloud, settings, uri, endpoint, options, path, authorization
):
    settings(**{endpoint: cloud}, **options)
    CloudHandler.requests.clear()
    content, info = _objects.read_object(uri)
    assert content == b"content" and info == _objects.ObjectInfo(7, '"e"')
    assert _objects.stat_object(uri) == info
    with pytest.raises(FileNotFoundError):
        _objects.read_object(uri.replace("cat", "dog"))
    assert CloudHandler.requests[0][0] == path
    assert CloudHandler.requests[0][1].startswith(authorization)


@pytest.mark.parametrize(
    ("uri", "options", "fix"),
    [
        (
            "gs://pets/cat.jpg",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/none.json"},
            "GOOGLE_APPLICATION_CREDENTIALS to the",
        ),
        (
            "gs://pets/cat.jpg",
            {"GOOGLE_SERVICE_ACCOUNT": "/none.json"},
            "GOOGLE_APPLICATION_CREDENTIALS to the path",
        ),
        (
            "az://pets/cat.jpg",
            {},
            "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS",
        ),
        (
            "az://pets/cat.jpg",
            AZURE_KEY | {"AZURE_STORAGE_ACCOUNT_KEY": "%"},
            "Set AZURE_STORAGE_ACCOUNT_NAME and",
        ),
        (
            "az://pets/cat.jpg",
            {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_SAS_TOKEN": "secret-token"},
            "AZURE_STORAGE_SAS_TOKEN",
        ),
    ],
)
def test_unusable_credentials_end_the_run_with_what_to_set(settings, uri, options, fix):
    settings(**options)
    with pytest.raises(ObjectStorageError, match=rf"cannot access '{uri}': .*credentials.*{fix}") as caught:
        _objects.read_object(uri)
    assert "secret-token" not in str(caught.value)
