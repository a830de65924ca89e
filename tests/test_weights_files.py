"""Weights files: download, resumption, verification and import, against a server on the loopback address."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest

from tests.networks import build, make_images
from tests.weights_server import LoopbackServer, wait_for
from tlfeatures import CNNFeatures
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError, UnknownNameError, WeightsError
from tlfeatures.networks import NETWORKS
from tlfeatures.networks._published_digests import PUBLISHED_DIGESTS
from tlfeatures.weights import fetch_weights, import_weights, list_weights, verify_weights

VGG16 = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
MOBILENET = "mobilenet_2_5_224_tf_no_top.h5"
CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server():
    with LoopbackServer() as server:
        server.behaviour.content = CONTENT
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The weights folder of a machine without weights, where the digest of vgg16 is that of ``CONTENT``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(
        "tlfeatures.networks._weights.weights_folders", lambda: [tmp_path / "keras" / "models"]
    )
    monkeypatch.setitem(PUBLISHED_DIGESTS, VGG16, hashlib.md5(CONTENT).hexdigest())
    urllib.request.install_opener(None)  # which reads the proxies again
    yield tmp_path / "keras" / "models"
    urllib.request.install_opener(None)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """A weights file of mobilenet_0.25 in the layout of those that Keras publishes."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    path = tmp_path_factory.mktemp("mobilenet") / MOBILENET
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, build(NETWORKS["mobilenet_0.25"], 224))
    return path


def fetch(server, name="vgg16", **options):
    return fetch_weights(name, mirror=server.url, **options)


def offsets(server):
    """Start of each requested part."""
    return [int(text[6:-1]) if text else 0 for _, text in server.behaviour.requests]


# --- download ------------------------------------------------------------------------------------------


def test_a_downloaded_file_has_the_published_digest(server, folder):
    row = fetch(server)
    assert (row["state"], row["downloaded"], row["bytes"]) == ("digest matches", True, len(CONTENT))
    assert row["path"] == folder / VGG16
    assert row["path"].read_bytes() == CONTENT
    assert os.listdir(folder) == [VGG16]
    assert not fetch(server)["downloaded"]
    assert server.behaviour.requests == [(f"/{VGG16}", None)]


@pytest.mark.parametrize("etag", ['"1"', ""])
def test_a_lost_connection_is_resumed_at_once_if_the_server_can_name_its_file(server, folder, etag):
    server.behaviour.etag = etag
    server.behaviour.closes_after = [100_000, 150_000]
    assert fetch(server)["downloaded"]
    assert offsets(server) == ([0, 100_000, 250_000] if etag else [0, 0, 0])
    assert (folder / VGG16).read_bytes() == CONTENT
    assert os.listdir(folder) == [VGG16]


def test_the_next_call_resumes(server, folder):
    server.behaviour.closes_after = [100_000, 0]
    message = (
        r"the connection ended after 100,000 of 300,000 bytes; they are kept, and the next attempt resumes"
        rf".*Expected the file {VGG16} in .*`tlfeatures weights fetch vgg16` tries again"
    )
    with pytest.raises(WeightsError, match=message):
        fetch(server)
    assert sorted(os.listdir(folder)) == [f".part-{VGG16}", f".part-{VGG16}.json"]
    assert {row["state"] for row in list_weights("vgg16")} == {"absent"}
    assert fetch(server)["downloaded"]
    assert offsets(server) == [0, 100_000, 100_000]
    assert os.listdir(folder) == [VGG16]


def test_what_cannot_be_resumed_is_deleted(server, folder):
    server.behaviour.etag = ""
    server.behaviour.closes_after = [100_000, 0]
    with pytest.raises(WeightsError, match=r"the connection ended after 0 of 300,000 bytes\)"):
        fetch(server)
    assert os.listdir(folder) == []


def interrupt(server, folder, size=100_000):
    """Leave a part of the file."""
    server.behaviour.closes_after = [size, 0]
    with pytest.raises(WeightsError, match="the connection ended after"):
        fetch(server)
    server.behaviour.requests.clear()
    return folder / f".part-{VGG16}", folder / f".part-{VGG16}.json"


def test_another_file_on_the_server_is_not_appended_to_the_part(server, folder):
    interrupt(server, folder)
    server.behaviour.etag = '"2"'
    assert fetch(server)["path"].read_bytes() == CONTENT
    assert offsets(server) == [100_000]  # answered with the whole file, because its ETag is another


def test_a_server_without_ranges_sends_the_whole_file(server, folder):
    interrupt(server, folder)
    server.behaviour.ranges = False
    assert fetch(server)["path"].read_bytes() == CONTENT


def test_a_server_that_resumes_at_another_position_is_asked_for_the_whole_file(server, folder):
    interrupt(server, folder)
    server.behaviour.wrong_range = True
    assert fetch(server)["path"].read_bytes() == CONTENT
    assert offsets(server) == [100_000, 0]


@pytest.mark.parametrize("damage", ["bytes", "shorter", "state", "no state"])
def test_a_damaged_part_is_not_used(server, folder, damage):
    part, state = interrupt(server, folder)
    content = part.read_bytes()
    if damage == "bytes":
        part.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "shorter":
        part.write_bytes(content[:-1])
    elif damage == "state":
        state.write_text("[1, 2")
    else:
        state.unlink()
    assert fetch(server)["path"].read_bytes() == CONTENT
    assert offsets(server) == [0]


def test_bytes_after_the_last_saved_state_are_received_again(server, folder):
    """A killed process may have written more than its last state says."""
    part, _ = interrupt(server, folder)
    with open(part, "ab") as file:
        file.write(b"not of this file")
    assert fetch(server)["path"].read_bytes() == CONTENT
    assert offsets(server) == [100_000]


def test_a_complete_part_needs_no_request(server, folder, monkeypatch):
    part, state = interrupt(server, folder)
    part.write_bytes(CONTENT)
    digest = hashlib.md5(CONTENT).hexdigest()
    state.write_text(json.dumps(json.loads(state.read_text()) | {"size": len(CONTENT), "digest": digest}))
    assert fetch(server)["path"].read_bytes() == CONTENT
    assert server.behaviour.requests == []


def test_a_file_with_another_digest_is_deleted(server, folder):
    server.behaviour.content = b"X" + CONTENT[1:]
    with pytest.raises(
        WeightsError, match=r"its MD5 digest is \w{32}, but \w{32} is published: .*another file"
    ):
        fetch(server)
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": 404}, rf"the server answered 404 Not Found for http://127.0.0.1:\d+/{VGG16}"),
        ({"status": 503}, "the server answered 503 Service Unavailable"),
        ({"content_type": "text/html; charset=utf-8"}, "the server sent a web page, not a file"),
        ({"length": -1000}, "its MD5 digest is"),  # more bytes than announced are not read
        ({"length": None, "content": CONTENT[:-9]}, "its MD5 digest is"),
        ({"location": "file:///etc/hosts"}, "is not allowed"),
        ({"location": "/"}, "would lead to an infinite loop"),
        ({"content": b""}, "its MD5 digest is"),
    ],
)
def test_a_failed_download_leaves_no_file(server, folder, change, message):
    vars(server.behaviour).update(change)
    with pytest.raises(WeightsError, match=message):
        fetch(server)
    assert os.listdir(folder) == []


def test_fewer_bytes_than_announced_are_kept_but_not_used(server, folder):
    server.behaviour.length, server.behaviour.ranges = 1000, False
    with pytest.raises(WeightsError, match="the connection ended after 300,000 of 301,000 bytes"):
        fetch(server)
    assert not (folder / VGG16).exists()


def test_a_redirect_is_followed(server, folder):
    server.behaviour.location = f"{server.url}/moved/file"
    assert fetch(server)["path"].read_bytes() == CONTENT
    assert [path for path, _ in server.behaviour.requests] == [f"/{VGG16}", "/moved/file"]


def test_urllib_lists_the_addresses_of_redirects(server):
    server.behaviour.location = f"{server.url}/moved/file"
    request = urllib.request.Request(f"{server.url}/file")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60):
        assert list(request.redirect_dict) == [f"{server.url}/moved/file"]


@pytest.mark.parametrize("addresses", [[], ["http://other.example/file", "https://other.example/file"]])
def test_a_redirect_from_https_must_stay_encrypted(folder, monkeypatch, addresses):
    response = io.BytesIO(CONTENT)
    response.headers, response.url = {}, addresses[-1] if addresses else "http://other.example/file"

    def answer(request, timeout):
        request.redirect_dict = dict.fromkeys(addresses, 1)
        return response

    monkeypatch.setattr("urllib.request.urlopen", answer)
    with pytest.raises(WeightsError, match=r"redirects to http://other\.example/file, which is not https"):
        fetch_weights("vgg16", mirror="https://mirror.example/")
    assert os.listdir(folder) == []


def test_a_silent_server_reaches_the_time_limit(server, folder):
    server.behaviour.pauses = True
    server.behaviour.ranges = False
    with pytest.raises(WeightsError, match=r"no data for 1 s after [\d,]+ of 300,000 bytes|timed out"):
        fetch(server, timeout=1)
    assert not (folder / VGG16).exists()


def test_a_slow_server_reaches_the_time_limit(server, folder):
    """A server that sends a byte now and then never reaches the time limit of its socket."""
    server.behaviour.bytes_per_second = 100
    server.behaviour.etag = ""
    server.behaviour.closes_after = [2**30, 0]
    with pytest.raises(
        WeightsError, match=r"ended after 0 of 300,000|less than 1 kB/s after|no data|timed out"
    ):
        fetch(server, timeout=1)
    assert not (folder / VGG16).exists()


def test_ctrl_c_keeps_what_was_received_for_the_next_call(server, folder, tmp_path):
    server.behaviour.pauses = True
    part = folder / f".part-{VGG16}"
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT\n"
        "from tlfeatures.cli import main\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "weights", "fetch", "vgg16", "--mirror", server.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: part.exists() and part.stat().st_size >= 150_000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run the same command again to resume" in errors
    assert not (folder / VGG16).exists()
    server.behaviour.pauses = False
    assert fetch(server)["path"].read_bytes() == CONTENT


def test_a_second_download_of_a_file_waits_for_the_first(server, folder):
    server.behaviour.pauses = True
    part, rows = folder / f".part-{VGG16}", []
    threads = [threading.Thread(target=lambda: rows.append(fetch(server, timeout=60))) for _ in range(2)]
    with pytest.warns(UserWarning, match=f"Another process is downloading {VGG16}; waiting") as caught:
        threads[0].start()
        wait_for(lambda: part.exists() and part.stat().st_size >= 150_000)
        threads[1].start()
        wait_for(lambda: any("Another process" in str(warning.message) for warning in list(caught)))
        server.behaviour.pauses = False
        for thread in threads:
            thread.join(60)
    assert [row["state"] for row in rows] == ["digest matches"] * 2
    assert offsets(server) == [0]
    assert os.listdir(folder) == [VGG16]


def test_too_small_a_disk_is_reported_before_the_download(server, folder, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=200_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        WeightsError,
        match=r"the disk is full: .*models needs 0\.3 MB more and has 0\.2 MB; free some space, or set KERAS_H",
    ):
        fetch(server)
    assert os.listdir(folder) == []


def test_a_disk_that_is_full_during_the_download(server, folder):
    """RLIMIT_FSIZE makes writes fail after 100,000 bytes."""
    code = f"""
import resource, signal, sys
from tlfeatures.errors import WeightsError
from tlfeatures.weights import fetch_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    fetch_weights("vgg16", mirror={server.url!r})
except WeightsError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "the disk is full" in output
    assert not (folder / VGG16).exists()
    assert fetch(server)["path"].read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(server, folder):
    folder.mkdir(parents=True)
    (folder / VGG16).write_bytes(CONTENT[:1000])
    assert [row["state"] for row in list_weights("vgg16")] == ["damaged", "absent"]
    server.behaviour.status = 404
    with pytest.raises(WeightsError, match="404"):
        fetch(server)
    assert (folder / VGG16).read_bytes() == CONTENT[:1000]  # until the new one is complete
    server.behaviour.status = 200
    assert fetch(server)["downloaded"]
    assert [row["state"] for row in verify_weights("vgg16")] == ["digest matches"]


def test_a_proxy_of_the_environment_is_used(server, folder, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    fetch_weights("vgg16", mirror="http://mirror.example/keras/")
    assert server.behaviour.requests == [(f"http://mirror.example/keras/{VGG16}", None)]


def test_a_folder_can_be_a_mirror(folder, tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / VGG16).write_bytes(CONTENT)
    assert fetch_weights("vgg16", mirror=f"file://{tmp_path}/share")["downloaded"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "vgg61"}, UnknownNameError, "Did you mean 'vgg19' or 'vgg16'"),
        (
            {"mirror": "ftp://host/"},
            InvalidParameterError,
            "`mirror` must be None or the address of a folder",
        ),
        ({"mirror": "https://user:secret@host/"}, InvalidParameterError, "without a user name"),
        ({"mirror": "https:///models"}, InvalidParameterError, "`mirror` must be"),
        ({"mirror": "http://[::1/models"}, InvalidParameterError, "`mirror` must be"),
        ({"mirror": 3}, InvalidParameterError, "`mirror` must be"),
        ({"timeout": 0}, InvalidParameterError, "`timeout` must be a number above 0"),
        ({"image_size": 0}, InvalidParameterError, "`image_size` must be None or an integer"),
        ({"top": "yes"}, InvalidParameterError, "`top` must be True or False"),
        (
            {"model": "mobilenet", "image_size": 150},
            InvalidParameterError,
            "`image_size` must be 128, 160, 192 or 224 for 'mobilenet'; got 150",
        ),
    ],
)
def test_invalid_parameters(folder, options, error, message):
    with pytest.raises(error, match=message):
        fetch_weights(**{"model": "vgg16", **options})


def test_a_file_without_a_published_digest_must_load_into_the_network(server, folder, mobilenet):
    server.behaviour.content = mobilenet.read_bytes()[:-1000]
    server.behaviour.length = None  # so that the missing end is not noticed
    with pytest.raises(WeightsError, match="Cannot load the weights file"):
        fetch(server, "mobilenet_0.25")
    with pytest.raises(WeightsError, match="Cannot load the weights file"):  # also without the command
        server.behaviour.requests.clear()
        url = f"{server.url}/mobilenet_2_5_{{size}}_tf{{notop}}.h5"
        spec = dataclasses.replace(NETWORKS["mobilenet_0.25"], url=url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tlfeatures.networks._loading.find_network", lambda name: spec)
            CNNFeatures("mobilenet_0.25", image_size=224, cache=None).fit(make_images(1, 224))
    assert os.listdir(folder) == []
    server.behaviour.content = mobilenet.read_bytes()
    row = fetch(server, "mobilenet_0.25")
    assert (row["state"], row["digest"]) == ("loads", None)
    assert CNNFeatures("mobilenet_0.25", cache=None).fit_transform(make_images(1, 224)).shape == (1, 256)


# --- import --------------------------------------------------------------------------------------------


def test_a_file_is_recognized_by_its_digest(folder, tmp_path):
    path = tmp_path / "download (1)"
    path.write_bytes(CONTENT)
    row = import_weights(path)
    assert (row["model"], row["top"], row["state"], row["imported"]) == (
        "vgg16", False, "digest matches", True,
    )  # fmt: skip
    assert (folder / VGG16).read_bytes() == CONTENT
    assert not import_weights(path)["imported"]
    assert not import_weights(folder / VGG16)["imported"]
    assert os.listdir(folder) == [VGG16]


def test_a_file_without_a_published_digest_is_recognized_by_its_name(folder, mobilenet):
    row = import_weights(mobilenet)
    assert (row["model"], row["state"]) == ("mobilenet_0.25", "loads")
    features = CNNFeatures("mobilenet_0.25", cache=None).fit_transform(make_images(2, 224))  # offline
    expected = CNNFeatures("mobilenet_0.25", weights=mobilenet, cache=None).fit_transform(make_images(2, 224))
    np.testing.assert_array_equal(features, expected)


def test_a_renamed_file_is_recognized_by_its_arrays_and_the_image_size(folder, mobilenet, tmp_path):
    path = tmp_path / "weights.h5"
    shutil.copy(mobilenet, path)
    message = (
        r"the shapes of 'mobilenet_0.25', but so have .*Pass `image_size`.*: mobilenet_2_5_128.* or .*_224"
    )
    with pytest.raises(WeightsError, match=message):
        import_weights(path, model="mobilenet_0.25")
    row = import_weights(path, model="mobilenet_0.25", image_size=128)
    assert row["path"] == folder / "mobilenet_2_5_128_tf_no_top.h5"
    with pytest.raises(WeightsError, match="neither its name nor the shapes of its arrays"):
        import_weights(path, model="mobilenet_0.5", image_size=128)


@pytest.mark.slow
def test_a_renamed_file_is_recognized_among_all_networks(folder, mobilenet, tmp_path):
    path = tmp_path / "weights.h5"
    shutil.copy(mobilenet, path)
    assert import_weights(path, image_size=224)["path"] == folder / MOBILENET


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            VGG16,
            CONTENT[:-1],
            r"is not the published weights file of 'vgg16' without its top: its MD5",
        ),
        (MOBILENET, CONTENT[1:], r"Cannot load the weights file .* into 'mobilenet_0.25_224'"),
        ("photo.jpg", CONTENT[1:], r"is not a weights file that Keras publishes: .*cannot be read as HDF5"),
        ("empty.h5", b"", r"cannot be read as HDF5"),
        ("alexnet-owt-7be5be79.pth", b"PK", r"its SHA-256 digest is \w{8}\.\.\., but its name says 7be5be79"),
    ],
)
def test_other_files_are_not_imported(folder, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        import_weights(tmp_path / name)
    assert not folder.exists() or os.listdir(folder) == []


def test_invalid_imports(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"No file at .*; expected a weights file that Keras publishes"):
        import_weights(tmp_path)
    (tmp_path / "file.h5").touch()
    with pytest.raises(InvalidParameterError, match="'tiny' is part of the package"):
        import_weights(tmp_path / "file.h5", model="tiny")
    with pytest.raises(InvalidParameterError, match="must be 128, 160, 192 or 224 for 'mobilenet'; got 100"):
        import_weights(tmp_path / "file.h5", model="mobilenet", image_size=100)


# --- list and verify -----------------------------------------------------------------------------------


def test_all_networks_are_listed(folder):
    rows = list_weights()
    assert {row["model"] for row in rows} == set(NETWORKS)
    assert {row["state"] for row in rows} == {"absent", "part of the package"}
    without = {row["model"] for row in rows if row["digest"] is None}
    assert without == {n for n in NETWORKS if n.startswith("mobilenet") and "v3" not in n} | {"tiny"}
    assert [row["image_size"] for row in list_weights("mobilenet", all_sizes=True)] == [
        128, 128, 160, 160, 192, 192, 224, 224,
    ]  # fmt: skip


def test_several_networks_are_listed_in_their_order_each_once(folder):
    rows = list_weights(["vgg19", "VGG16", "vgg19"])
    assert [row["model"] for row in rows] == ["vgg19"] * 2 + ["vgg16"] * 2
    assert list_weights([]) == [] == verify_weights(["vgg16", "vgg19"])
    with pytest.raises(UnknownNameError, match="vgg20"):
        list_weights(["vgg16", "vgg20"])


def test_every_published_digest_belongs_to_a_file_of_a_network():
    files = {row["file"] for row in list_weights(all_sizes=True)}
    assert PUBLISHED_DIGESTS.keys() <= files


def test_verify_reads_what_is_there(folder, mobilenet):
    folder.mkdir(parents=True)
    shutil.copy(mobilenet, folder)
    (folder / "mobilenet_5_0_128_tf.h5").write_bytes(b"not HDF5")
    assert [row["state"] for row in verify_weights("mobilenet_0.25")] == ["loads"]
    (row,) = verify_weights("mobilenet_0.5")
    assert row["state"] == "damaged"
    assert "Cannot load the weights file" in row["problem"]
    assert [row["model"] for row in verify_weights("tiny")] == ["tiny"]


# --- command line --------------------------------------------------------------------------------------


def run(capsys, *arguments):
    code = main(["weights", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_the_commands_download_list_and_verify(server, folder, capsys):
    code, output, errors = run(capsys, "fetch", "VGG16", "--mirror", server.url)
    assert (code, errors) == (0, "")
    assert output == (
        f"vgg16: downloaded, {folder / VGG16} (300.0 kB, licence CC-BY-4.0); it has the published digest.\n"
    )
    code, output, _ = run(capsys, "list")
    assert [line.split()[0] for line in output.splitlines()[2:4]] == ["vgg16", "tiny"]
    assert "1 file on this machine. `tlfeatures weights fetch NAME` downloads others" in output
    assert run(capsys, "verify", "vgg16")[0] == 0
    (folder / VGG16).write_bytes(b"")
    code, output, errors = run(capsys, "verify", "vgg16", "vgg19", "--json")
    assert code == 1
    assert [row["state"] for row in json.loads(output)] == ["damaged"]
    assert "`tlfeatures weights fetch vgg16` replaces it" in errors
    assert "no weights of 'vgg19' are on this machine; `tlfeatures weights fetch vgg19`" in errors


def test_the_command_imports(folder, mobilenet, capsys):
    code, output, _ = run(capsys, "import", mobilenet, "--json")
    assert code == 0
    assert json.loads(output)[0]["path"] == str(folder / MOBILENET)
    code, output, _ = run(capsys, "list", "mobilenet_0.25")
    assert "no digest is published" in output
    assert "absent" in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fetch"], 2, "Missing argument 'NAME...'"),
        (["fetch", "vgg16", "vgg61"], 2, "Did you mean 'vgg19' or 'vgg16'"),
        (
            ["fetch", "vgg16", "--mirror", "host/models"],
            2,
            "--mirror must be None or the address of a folder",
        ),
        (["import", "absent.h5"], 1, "No file at 'absent.h5'"),
        (["import", __file__, "-m", "tiny"], 2, "--model must be a network with a weights file"),
        (["fetch", "mobilenet", "--image-size", "150"], 2, "--image-size must be 128, 160, 192 or 224"),
        (["list", "vgg"], 2, "Unknown network 'vgg'"),
    ],
)
def test_invalid_commands(folder, capsys, arguments, code, message):
    returned, output, errors = run(capsys, *arguments)
    assert (returned, output) == (code, "")
    assert message in errors
    assert not folder.exists()


def test_listing_does_not_import_keras(folder):
    code = "import sys; from tlfeatures.weights import list_weights; list_weights(); print('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
