"""Accepted forms of images, and the errors for other inputs."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from tests.image_helpers import (  # noqa: F401
    QUADRANTS,
    RESIZED_SAMPLE,
    SAMPLE,
    D,
    Rows,
    encode,
    photo,
    pixels,
    png,
    quiet,
    reason,
)
from tlfeatures.errors import ImageInputError, ImageReadError
from tlfeatures.fingerprints import array_key, bytes_key
from tlfeatures.images import Decoder, Images, check_images, decode_batches

# --- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64", "bool", "int64", "int8"]
)
def test_arrays_of_every_accepted_dtype_and_layout(tail, dtype):
    eight = np.random.default_rng(0).integers(0, 256, (3, 8, 6, *tail), np.uint8)
    if tail == (4,):
        eight[..., 3] = 255
    eight.flat[0] = 255
    kind = np.dtype(dtype).kind
    if kind == "f":
        X = (eight / 255).astype(dtype)
    elif dtype in ("uint16", ">u2"):
        X = (eight.astype(np.uint16) * 257).astype(dtype)
    elif kind == "b":
        eight = np.where(eight > 127, 255, 0).astype(np.uint8)
        X = eight > 0
    elif dtype == "int8":
        eight = eight // 2
        if tail == (4,):
            pytest.skip("int8 has no opaque alpha")
        X = eight.astype(dtype)
    else:
        X = eight.astype(dtype)
    X.flags.writeable = False
    original = X.copy()
    expected = np.stack([eight] * 3, -1) if tail == () else np.broadcast_to(eight[..., :3], (3, 8, 6, 3))
    for array in (X, list(X), X[::-1][::-1]):
        images = Images.of(array)
        assert len(images) == 3 and images.name(2) == "X[2]" and images.paths() == [None] * 3
        for i in range(3):
            if dtype != "float16":
                np.testing.assert_array_equal(pixels(images, i=i), expected[i])
            assert np.abs(pixels(images, i=i) - expected[i]).max() <= 1
            assert images.key(i) == array_key(X[i]) == images.decode(i, D)[0]
    np.testing.assert_array_equal(X, original)


def test_large_arrays_are_not_copied():
    X = np.zeros((50, 512, 512, 3), np.float32)  # 157 MB
    import tracemalloc

    tracemalloc.start()
    Images.of(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def make_object(module, name):
    """Make an object whose class has the module and name of a class of another library."""
    return type(name, (), {"__module__": module, "__iter__": lambda self: iter([])})()


INPUT_ERRORS = {
    "one path": ("a.jpg", r"one image \(the path 'a.jpg'\).*pass \[X\]"),
    "one Path": (pathlib.Path("a.jpg"), "expected: pass"),
    "one bytes": (b"abc", "one image .bytes.*expected: pass"),
    "one PIL image": (SAMPLE, "expected: pass"),
    "single image": (QUADRANTS, r"shape \(16, 12, 3\).*add the first axis with X\[None\]"),
    "single RGBA": (np.zeros((9, 9, 4), np.uint8), "add the first axis"),
    "narrow grey": (np.zeros((9, 9, 3), np.uint8), r"grey images this narrow.*X\[..., None\]"),
    "(n, d)": (
        np.zeros((5, 70)),
        r"shape \(5, 70\); expected \(n, height, width\).*X.reshape\(-1, height, width\)",
    ),
    "(n, 64)": (np.zeros((5, 64)), r"X.reshape\(-1, 8, 8\)"),
    "(n, 3072)": (np.zeros((5, 3072)), r"X.reshape\(-1, 32, 32, 3\)"),
    "(n,)": (np.zeros(5), r"shape \(5,\); expected"),
    "0-d": (np.float32(3), "expected"),
    "5-d": (np.zeros((2, 3, 4, 5, 3)), "expected"),
    "two channels": (np.zeros((2, 8, 8, 2), np.uint8), "1, 3 or 4 channels"),
    "channels first": (np.zeros((2, 3, 8, 8), np.uint8), r"np.asarray\(X\).transpose\(0, 2, 3, 1\)"),
    "no pixels": (np.zeros((2, 0, 8, 3), np.uint8), "at least one pixel"),
    "empty list": ([], r"0 sample\(s\)"),
    "empty array": (np.zeros((0, 8, 8, 3)), r"0 sample\(s\)"),
    "empty object array": (np.array([], dtype=object), r"0 sample\(s\)"),
    "float in [0, 255]": (
        np.full((2, 8, 8), 200.0),
        r"0 to 1|from 200 to 200.*\[0, 1\].*X / 255.*astype\('uint8'\)",
    ),
    "negative float": (np.full((2, 8, 8), -0.5), r"from -0.5 to -0.5"),
    "large float": (np.full((2, 8, 8), 6e4), r"astype\('uint16'\)"),
    "int32 too large": (
        np.full((2, 8, 8), 300, np.int32),
        "from 300 to 300; expected 0 to 255.*astype.'uint16'",
    ),
    "float in [-1, 1]": (np.linspace(-1, 1, 128).reshape(2, 8, 8), r"from -1 to 1;.*use \(X \+ 1\) / 2$"),
    "float in [0, 16]": (
        np.linspace(0, 16, 128).reshape(2, 8, 8),
        r"from 0 to 16;.*use X / 16, or divide by the l",
    ),
    "float in [0, 4095]": (
        np.linspace(0, 4000, 128).reshape(2, 8, 8),
        r"use X / 4095, or X.astype\('uint16'\)",
    ),
    "float in [0, 1e6]": (np.linspace(0, 1e6, 128).reshape(2, 8, 8), r"use X / X.max\(\)$"),
    "standardized": (
        np.linspace(-2.11, 2.64, 128).reshape(2, 8, 8),
        r"use \(X \+ 2.11\) / 4.75, the same for all images. If they were standardized, X \* std \+ mean",
    ),
    "Hounsfield": (
        np.linspace(-1000, 3000, 128).reshape(2, 8, 8).astype(np.int16),
        r"int16 values from -1000 to 3000; expected 0 to 255: use \(X \+ 1000\) / 4000, the same for all images.$",
    ),
    "int8": (np.arange(-128, 128).reshape(4, 8, 8).astype(np.int8), r"use \(X \+ 128\).astype\('uint8'\)"),
    "int16 of 12 bits": (
        np.arange(4096).reshape(4, 32, 32).astype(np.int16),
        r"use X.astype\('uint16'\) with `max_value=4095`",
    ),
    "int8 negative": (np.full((2, 8, 8), -1, np.int8), "from -1 to -1"),
    "complex": (np.zeros((2, 8, 8), complex), "Complex data not supported"),
    "datetime": (np.zeros((2, 8, 8), "M8[s]"), "dtype datetime64"),
    "bytes array": (np.array([b"a.jpg"]), r"X.astype\(str\)"),
    "object pixels": (np.zeros((2, 8, 8), object), r"array of object.*astype\('uint8'\)"),
    "list of numbers": ([1, 2], r"X\[0\] is of type int; expected a list of paths"),
    "list with a number": (["a.jpg", 2.5], r"X\[1\] is of type float"),
    "nested lists": ([[[0, 1], [2, 3]]], r"X\[0\] is of type list.*np.asarray\(X\)"),
    "list of flat rows": ([np.zeros(4), np.zeros(4)], r"arrays of shape \(4,\)"),
    "pairs": (
        [("a.jpg", "cat"), ("b.jpg", "dog")],
        r"X\[0\] is a pair, str and str.*X, y = map\(list, zip\(\*X\)\)",
    ),
    "sparse matrix": (
        scipy.sparse.eye(8).tocsr(),
        r"a sparse matrix of shape \(8, 8\).*X.toarray\(\).reshape",
    ),
    "DataLoader": (
        make_object("torch.utils.data.dataloader", "DataLoader"),
        r"a PyTorch DataLoader; .*X.dataset.samples",
    ),
    "Dataset": (make_object("torch.utils.data.dataset", "Dataset"), r"a PyTorch Dataset; .*y = X.targets"),
    "Hugging Face": (
        make_object("datasets.arrow_dataset", "Dataset"),
        r"a Hugging Face Dataset; .*list\(X\['image'\]\)",
    ),
    "dict": ({"a": 1}, "type dict"),
    "generator": ((x for x in ["a.jpg"]), r"generator.*list\(X\)"),
    "None": (None, "NoneType"),
    "number": (3, "type int"),
}


@pytest.mark.parametrize("case", INPUT_ERRORS)
def test_error_for_inputs_that_are_not_images_says_how_to_fix_them(case):
    X, text = INPUT_ERRORS[case]
    with pytest.raises(ImageInputError, match=text) as caught:
        Images.of(X)
    assert isinstance(caught.value, ValueError)


def test_the_fix_for_channels_first_works_for_arrays_and_tensors():
    torch = pytest.importorskip("torch")
    X = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6), np.uint8)
    for images in (X, torch.from_numpy(X)):
        with pytest.raises(ImageInputError, match=r"Channels first\? Use (.*)\.$") as caught:
            Images.of(images)
        fix = re.search(r"Use (.*)\.$", str(caught.value))[1]
        assert Images.of(eval(fix, {"np": np, "X": images})).size(0) == (6, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_error_for_nan_counts_values_and_names_the_first_row(bad):
    X = np.zeros((4, 8, 8), np.float32)
    X[2, 1, 1:4] = bad
    X[3, 0, 0] = bad
    with pytest.raises(ImageInputError, match="4 values in 2 rows are NaN or infinite, the first in row 2"):
        Images.of(X)


def test_invalid_items_of_lists_are_errors_of_these_rows():
    good = np.zeros((8, 6, 3), np.uint8)
    X = [
        good,
        np.full((8, 6), np.nan),
        np.zeros((8, 6, 2)),
        np.full((5, 5), 7.5),
        None,
        float("nan"),
        b"",
        good[:0],
    ]
    keys, errors = Images.of(X).keys()
    assert keys.shape == (8, 16) and keys.dtype == np.uint8 and keys[0].tobytes() == array_key(good)
    assert not keys[1:].any()
    assert list(errors) == [1, 2, 3, 4, 5, 6, 7]
    for row, text in {
        1: "48 values are NaN",
        2: "(8, 6, 2)",
        3: "from 7.5",
        4: "missing",
        6: "empty",
        7: "no pixel",
    }.items():
        assert text in errors[row]
    table = check_images(X)
    assert table["row"][table["problem"] == "error"].tolist() == list(errors)


def test_floats_may_exceed_the_unit_interval_by_rounding():
    X = np.array([[[-1e-8, 1 + 1e-7], [0.5, 1.0]]])
    assert pixels(X, Decoder((2, 2)))[..., 0].tolist() == [[0, 255], [128, 255]]


# --- containers ------------------------------------------------------------------------------------


def test_series_data_frames_and_object_arrays_of_paths(tmp_path):
    pd = pytest.importorskip("pandas")
    path = tmp_path / "a.png"
    SAMPLE.save(path)
    for X in (
        pd.Series([str(path)], index=["k"]),
        pd.Series([path], dtype=object),
        pd.DataFrame({"file": [str(path)]}),
        pd.Series([str(path)], dtype="category"),
        np.array([[str(path)]], dtype=object),
    ):
        np.testing.assert_array_equal(pixels(X), RESIZED_SAMPLE)
    with pytest.raises(ImageInputError, match=r"table of 2 columns; expected one column.*'file'"):
        Images.of(pd.DataFrame({"file": ["a"], "label": [1]}))
    with pytest.raises(ImageInputError, match="expected"):
        Images.of(pd.DataFrame({"width": [1.5, 2.5]}))
    missing = Images.of(pd.Series([str(path), None, pd.NA], dtype=object))
    assert list(missing.keys()[1]) == [1, 2]


def test_error_for_a_tf_data_dataset_has_the_conversion():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((QUADRANTS[None], [1])).batch(1)
    with pytest.raises(
        ImageInputError, match=r"a tf.data.Dataset; expected .*X.as_numpy_iterator\(\)"
    ) as caught:
        Images.of(dataset)
    code = re.search(r"(np\.concatenate.*)\.$", str(caught.value))[1]
    np.testing.assert_array_equal(eval(code, {"np": np, "X": dataset}), QUADRANTS[None])


def test_error_for_an_arrow_table_names_a_column():
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(ImageInputError, match=r"table of 2 columns.*choose it, e.g. X\['path'\]"):
        Images.of(pa.table({"path": ["a"], "label": ["b"]}))
    with pytest.raises(ImageInputError, match=r"expected one column of images: X.column\(0\)"):
        Images.of(pa.table({"path": ["a"]}))


def test_arrow_arrays_of_paths(tmp_path):
    pa = pytest.importorskip("pyarrow")
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        SAMPLE.save(path)
    for X in (pa.array(paths), pa.chunked_array([paths[:1], paths[1:]]), pa.table({"a": paths})["a"]):
        assert Images.of(X).paths() == paths
    assert Images.of(pa.array([encode(SAMPLE, "PNG")])).decode(0, D)[1].shape == (8, 6, 3)


def test_error_for_urls_of_unknown_kinds_lists_the_kinds():
    assert reason(["ftp://x.org/a.jpg"]).startswith(
        "is a URL of an unknown kind; expected s3://, gs://, az://"
    )
    assert "pass URIs as text" in reason([pathlib.Path("s3://bucket/a.jpg")])


def test_equal_content_in_different_forms_has_equal_keys(tmp_path):
    path = tmp_path / "a.png"
    SAMPLE.save(path)
    data = path.read_bytes()
    X = [
        str(path),
        path,
        data,
        bytearray(data),
        memoryview(data),
        SAMPLE,
        QUADRANTS,
        QUADRANTS.astype(float) / 255,
    ]
    images = Images.of(X)
    for i in range(len(X)):
        np.testing.assert_array_equal(pixels(images, i=i), RESIZED_SAMPLE)
        assert images.key(i) == images.decode(i, D)[0]
    assert len({images.key(i) for i in range(5)}) == 1 and images.key(0) == bytes_key(data)
    assert images.key(5) == images.key(6) != images.key(7)
    assert [images.name(i) for i in (0, 2, 7)] == [str(path), "X[2]", "X[7]"]
    assert Images.of(images) is images
    keys, errors = images.keys(n_threads=3)
    assert [k.tobytes() for k in keys] == [images.key(i) for i in range(len(X))] and errors == {}


def test_pil_images_are_not_changed(tmp_path):
    path = tmp_path / "a.jpg"
    photo(900, 900).save(path)
    with Image.open(path) as im:
        decoded = pixels([im, im, im], Decoder((64, 64)), i=2)
        assert im.size == (900, 900) and im.mode == "RGB"  # no draft on the caller's image
        np.testing.assert_array_equal(decoded, np.asarray(im.resize((64, 64), Image.Resampling.BILINEAR)))
    lazy = [Image.open(path)] * 16
    batches = list(decode_batches(lazy, range(16), Decoder((64, 64)), 4, n_threads=4))
    for _, _, batch, errors in batches:
        assert not errors and (batch == decoded).all()


def test_take_keeps_names_and_order(tmp_path):
    X = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 5, 5), np.uint8)
    taken = Images.of(X).take([4, 0, 4])
    assert [taken.name(i) for i in range(3)] == ["X[4]", "X[0]", "X[4]"]
    assert [int(pixels(taken, i=i).max()) for i in range(3)] == [4, 0, 4]
    again = taken.take(np.array([False, True, True]))
    assert len(again) == 2 and again.name(1) == "X[4]" and again.key(1) == array_key(X[4])
    assert len(taken.take([])) == 0


def test_arrays_on_disk_are_read_row_by_row():
    X = np.random.default_rng(0).integers(0, 256, (40, 8, 6, 3), np.uint8)
    rows = Rows(X)
    images = Images.of(rows)
    assert len(images) == 40 and rows.read == 0
    np.testing.assert_array_equal(pixels(images, i=7), X[7])
    assert rows.read == 1 and images.key(3) == array_key(X[3])
    with pytest.raises(ImageInputError, match="single image"):
        Images.of(Rows(QUADRANTS))
    floats = np.zeros((2, 5, 5))
    floats[1] = 9
    assert list(Images.of(Rows(floats)).keys()[1]) == [1]


def test_hdf5_datasets_can_be_decoded(tmp_path):
    h5py = pytest.importorskip("h5py")
    X = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f.create_dataset("x", data=X, chunks=(3, 8, 6, 3), compression="gzip")
        batches = list(decode_batches(f["x"], range(10), D, 4, n_threads=3))
    np.testing.assert_array_equal(np.concatenate([b for _, _, b, _ in batches]), X)


# --- keys belong to the decoded pixels ---------------------------------------------------------------


def test_a_file_replaced_after_keying_is_stored_under_its_new_key(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(np.zeros((8, 6, 3), np.uint8), "BMP"))
    stat = path.stat()
    images = Images.of([path])
    old_key = images.key(0)
    path.write_bytes(encode(np.full((8, 6, 3), 9, np.uint8), "BMP"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    key, decoded = images.decode(0, D)
    assert key != old_key and key == bytes_key(path.read_bytes()) == images.key(0) and decoded.min() == 9


def test_sizes_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    SAMPLE.save(tmp_path / "rotated.jpg", exif=exif)
    images = Images.of([str(tmp_path / "rotated.jpg"), encode(SAMPLE, "PNG"), np.asarray(SAMPLE), SAMPLE])
    assert [images.size(i) for i in range(4)] == [(16, 12), (12, 16), (12, 16), (12, 16)]
    with pytest.raises(ImageReadError, match="no such file"):
        Images.of([str(tmp_path / "absent.png")]).size(0)
