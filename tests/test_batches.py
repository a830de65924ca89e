"""Batches keep the order of the rows, use bounded memory and name unreadable images."""

from __future__ import annotations

import textwrap
import threading
import time

import numpy as np
import pytest

from tests.image_helpers import D, Rows, encode, photo, python, quiet  # noqa: F401
from tlfeatures.fingerprints import array_key
from tlfeatures.images import decode_batches

# --- batches ---------------------------------------------------------------------------------------


@pytest.fixture
def decoding_threads():
    """Return a function that lists the decoding threads of the test, without those that earlier tests left."""
    earlier = set(threading.enumerate())

    def list_threads():
        return [
            t for t in threading.enumerate() if t.name.startswith("tlfeatures-decode") and t not in earlier
        ]

    return list_threads


def test_batches_keep_the_order_and_name_unreadable_images(decoding_threads):
    arrays = [np.full((5, 5), i, np.uint8) for i in range(23)]
    X = [b"bad" if i in (0, 7, 8, 9, 10, 11, 22) else a for i, a in enumerate(arrays)]
    rows = [*range(22, -1, -1), 3, 3]
    read_rows, all_errors = [], {}
    for batch_rows, keys, batch, errors in decode_batches(X, rows, D, batch_size=5, n_threads=3):
        assert len(batch_rows) == len(keys) == len(batch) and len(batch_rows) + len(errors) == 5
        assert batch.shape[1:] == (8, 6, 3) and batch.dtype == np.uint8
        for row, key, image in zip(batch_rows.tolist(), keys, batch, strict=True):
            assert (image == row).all() and key.tobytes() == array_key(arrays[row])
        read_rows += batch_rows.tolist()
        all_errors |= errors
    assert read_rows == [r for r in rows if not isinstance(X[r], bytes)]
    assert sorted(all_errors) == [0, 7, 8, 9, 10, 11, 22]
    assert not decoding_threads()


def test_a_batch_may_be_empty():
    ((rows, keys, batch, errors),) = decode_batches([b"x", b"y"], [0, 1], D, batch_size=4)
    assert rows.shape == (0,) and keys.shape == (0, 16) and batch.shape == (0, 8, 6, 3) and len(errors) == 2
    assert list(decode_batches([b"x"], [], D, batch_size=4)) == []


def test_number_of_batches_decoded_ahead_is_bounded(decoding_threads):
    rows = Rows(np.zeros((400, 5, 5), np.uint8))
    batches = decode_batches(rows, range(400), D, batch_size=10, n_threads=2, depth=3)
    assert rows.read == 0
    for n_batches in range(1, 6):
        next(batches)
        time.sleep(0.05)
        assert rows.read <= 10 * (n_batches + 3)
    batches.close()
    assert not decoding_threads() and rows.read < 100


def test_an_exception_in_the_consumer_stops_the_threads(decoding_threads):
    def consume():
        for _ in decode_batches(np.zeros((100, 5, 5), np.uint8), range(100), D, batch_size=4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not decoding_threads()


def test_unexpected_errors_reach_the_caller(decoding_threads):
    class Broken(Rows):
        def __getitem__(self, i):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(decode_batches(Broken(np.zeros((9, 5, 5), np.uint8)), range(9), D, 4))
    assert not decoding_threads()


def test_batches_do_not_depend_on_the_number_of_threads():
    X = [encode(photo(60 + i, 50, seed=i), "JPEG") for i in range(12)]
    single, parallel = (
        np.concatenate([b for *_, b, _ in decode_batches(X, range(12), D, size, n_threads=n)])
        for n, size in ((1, 1), (4, 5))
    )
    np.testing.assert_array_equal(single, parallel)


def test_interrupted_process_ends_at_once(tmp_path):
    code = """
        import os, signal, threading, time
        import numpy as np
        from tlfeatures.images import Decoder, decode_batches
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
        X, rows = [np.zeros((3000, 3000, 3), np.uint8)], [0] * 100_000  # minutes on any machine
        try:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            for _ in decode_batches(X, rows, Decoder((64, 64)), 32):
                pass
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = python(textwrap.dedent(code))
    assert process.stdout.strip() == "interrupted", process.stderr
