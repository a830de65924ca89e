"""Files of embeddings that are written in Python; tests/test_cli.py has tests of their contents."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tlfeatures
from tests.warning_helpers import of_test
from tlfeatures import CNNFeatures, EmbeddingStore
from tlfeatures.embedding_files import is_embedding_file, list_files, write_embeddings
from tlfeatures.errors import InvalidParameterError, UnreadableImagesWarning
from tlfeatures.images import Images
from tlfeatures.sources import Source

CNN = {"model": "tiny", "image_size": 32, "cache": None}


def test_images_in_memory_are_named_by_their_position(tmp_path, photos):
    images = [Image.open(path).convert("RGB") for path in photos.paths[:2]]
    written = write_embeddings(tmp_path / "x.parquet", CNNFeatures(**CNN), images)
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert table["path"].tolist() == ["X[0]", "X[1]"]
    assert table["label"].isna().all() and list(table)[:4] == ["path", "digest", "label", "error"]
    features = CNNFeatures(**CNN).fit_transform(images)
    np.testing.assert_allclose(table.to_numpy()[:, 4:].astype(np.float32), features, rtol=1e-6)
    assert written.shape == features.shape
    assert written.counts.images == written.counts.computed == 2


def test_a_path_with_a_null_character_does_not_end_the_writing(tmp_path, photos):
    cnn = CNNFeatures(**CNN, on_error="nan")
    with pytest.warns(UnreadableImagesWarning):
        write_embeddings(tmp_path / "x.h5", cnn, [photos.paths[0], "a\0b.png"])
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["path"].asstr()[1] == "ab.png" and "not valid" in file["error"].asstr()[1]


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".npy"])
def test_files_are_recognized(tmp_path, photos, suffix):
    path = tmp_path / f"x{suffix}"
    write_embeddings(path, CNNFeatures(**CNN), photos.paths[:2])
    assert all(map(is_embedding_file, list_files(path)))
    if suffix == ".npy":
        np.save(path, np.zeros((3, 4)))  # not the rows of the manifest
    else:
        path.write_bytes(b"of another program")
    assert not is_embedding_file(path)


def test_files_of_others_are_not_recognized(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.zeros((2, 3))
    (tmp_path / "x.csv").write_text("path,digest,label,error,my notes\n")
    for name in ("x.h5", "x.csv", "absent.h5", "x.txt"):
        assert not is_embedding_file(tmp_path / name)


def test_unknown_suffix_raises(tmp_path, photos):
    with pytest.raises(
        InvalidParameterError, match=r"`path` must end in .h5, .parquet or .npy; got '.*x.txt'"
    ):
        write_embeddings(tmp_path / "x.txt", CNNFeatures(**CNN), photos.paths)


def read(path):
    """Return the features and the table of the manifest of a file."""
    if path.suffix == ".npy":
        return np.load(path), pd.read_csv(list_files(path)[1], keep_default_na=False)
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        return table.iloc[:, 6:].to_numpy(), table.iloc[:, :6]
    with h5py.File(path) as file:
        names = ["path", "digest", "label", "error", "split", "group"]
        columns = {name: file[name] for name in names}
        texts = {n: c.asstr()[()] if c.dtype == object else c[()] for n, c in columns.items()}
        assert file["features"].chunks is None and file.attrs["tlfeatures"]
        return file["features"][()], pd.DataFrame(texts)


@pytest.fixture
def small_parts(monkeypatch):
    """Write five rows at a time, and ten in a row group of Parquet."""
    monkeypatch.setattr("tlfeatures.embedding_files._write._PART_ROWS", 5)
    monkeypatch.setattr("tlfeatures.embedding_files._formats._ROW_GROUP_BYTES", 10_000)


@pytest.fixture
def source(tmp_path, photos) -> Source:
    """The photographs with numeric labels, splits and groups; the images 3 and 11 are unreadable, 4 and 7 are dark."""
    paths = list(photos.paths)
    for i in (3, 11):
        paths[i] = str(tmp_path / f"absent {i}.jpg")
    for i in (4, 7):
        paths[i] = str(tmp_path / f"dark {i}.png")
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(paths[i])
    y, groups = np.arange(12) / 2, np.array([f"patient {i}" for i in range(12)])
    return Source(paths, y, groups, np.array(["train", "test"] * 6), paths, "manifest")


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".npy"])
def test_files_written_in_parts_have_all_rows_in_input_order(tmp_path, source, small_parts, suffix):
    cnn, path = CNNFeatures(**CNN | {"cache": tmp_path / "store"}), tmp_path / f"x{suffix}"
    with pytest.warns() as caught:
        written = write_embeddings(path, cnn, source)
    messages = [str(warning.message) for warning in of_test(caught)]
    assert [m.split(":")[0] for m in messages] == [
        "2 of 12 images span fewer than 16 of 256 levels, so their embeddings carry almost no information",
        "2 of 12 images could not be read; their rows are NaN. The first is " + repr(source.paths[3]),
    ]
    features, manifest = read(path)
    with pytest.warns():
        expected = CNNFeatures(**CNN, on_error="nan").fit_transform(source.images)
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    assert features.dtype == np.float32 and written.shape == features.shape
    assert manifest["path"].tolist() == source.paths
    assert manifest["label"].tolist() == (np.arange(12) / 2).tolist()
    assert manifest["split"].tolist() == ["train", "test"] * 6
    assert manifest["group"].tolist() == source.groups.tolist()
    assert [i for i, error in enumerate(manifest["error"]) if error] == sorted(written.errors) == [3, 11]
    assert manifest["digest"].tolist() == [
        "" if i in (3, 11) else key.tobytes().hex() for i, key in enumerate(written.keys)
    ]
    assert sorted(written.low_contrast) == [4, 7]
    assert str(written.counts).startswith("12 images: 0 from the store, 10 computed")


def test_progress_counts_the_images_of_all_parts(tmp_path, photos, small_parts):
    calls = []
    write_embeddings(
        tmp_path / "x.npy", CNNFeatures(**CNN), photos.paths, on_batch=lambda *call: calls.append(call)
    )
    assert [done for done, _ in calls] == [5, 5, 2]
    assert {total for _, total in calls} == {12}


FULL_DISK = """
import os, resource, sys
import numpy as np
import tlfeatures
from tlfeatures import CNNFeatures
from tlfeatures.embedding_files import _write, write_embeddings
_write._PART_ROWS = 500
X = np.random.default_rng(0).integers(0, 256, (1500, 8, 8), dtype="uint8")
cnn = CNNFeatures("tiny", image_size=32, cache="store")
os.mkdir("out")
for name in ("x.h5", "x.parquet", "x.npy"):
    write_embeddings(f"out/{name}", cnn, X[:500])
    size = os.stat(f"out/{name}").st_size
    for limit in (0, 3000, 20_000, size + 5):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write_embeddings(f"out/{name}", cnn, X)
        except OSError as error:
            print(error, sorted(os.listdir("out")), os.stat(f"out/{name}").st_size == size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_a_full_disk_raises_an_error_and_leaves_the_old_files(tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (1500, 8, 8), dtype="uint8")
    cnn = CNNFeatures("tiny", image_size=32, cache=tmp_path / "store").fit(X)
    rows = np.ones((1500, 320), np.float32)
    EmbeddingStore(tmp_path / "store").publish(cnn.recipes_[0], Images.of(X).keys()[0], rows)
    command = [sys.executable, "-X", "faulthandler", "-c", FULL_DISK]
    environment = {**os.environ, "PYTHONPATH": str(Path(tlfeatures.__file__).parents[1])}
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert process.returncode == 0, process.stderr
    old = {"x.h5": ["x.h5"], "x.parquet": ["x.h5", "x.parquet"]}
    old["x.npy"] = ["x.h5", "x.manifest.csv", "x.npy", "x.parquet"]
    assert process.stdout.splitlines() == [
        f"[Errno {errno.EFBIG}] Cannot write: File too large: {str(tmp_path / 'out' / name)!r} {names} True"
        for name, names in old.items()
        for _ in range(4)
    ]
