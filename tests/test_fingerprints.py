"""Digests of content, memoized by the state of the file."""

from __future__ import annotations

import os
import signal
import threading
import tracemalloc
import warnings

import pytest

from tlfeatures import fingerprints
from tlfeatures.fingerprints import bytes_key, file_key, memoized_keys


@pytest.fixture
def no_recent_changes(monkeypatch):
    monkeypatch.setattr("tlfeatures.fingerprints._FRESH_NS", -(10**18))


def test_a_digest_is_memoized_until_the_file_changes(tmp_path, no_recent_changes):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert memoized_keys([path, None, "absent"]) == [None] * 3
    assert file_key(path) == bytes_key(b"one")
    assert memoized_keys([path]) == [bytes_key(b"one")]
    path.write_bytes(b"other")
    assert memoized_keys([path]) == [None]
    assert file_key(path) == bytes_key(b"other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_hashes_can_hash(tmp_path, no_recent_changes):
    class SlowPath:
        """Waits where its digest is about to be memoized."""

        calls = 0

        def __fspath__(self):
            self.calls += 1
            if self.calls == 3:
                waiting.set()
                may_continue.wait(60)
            return str(tmp_path / "slow")

    waiting, may_continue = threading.Event(), threading.Event()
    for name in ("slow", "quick"):
        (tmp_path / name).write_bytes(name.encode())
    thread = threading.Thread(target=file_key, args=[SlowPath()])
    thread.start()
    assert waiting.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os._exit(0 if file_key(tmp_path / "quick") == bytes_key(b"quick") else 1)
    may_continue.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_memoized_digests_are_bounded_and_the_oldest_are_dropped(tmp_path, no_recent_changes, monkeypatch):
    monkeypatch.setattr(fingerprints, "_memo", {})
    monkeypatch.setattr(fingerprints, "_MEMO_LIMIT", 3)
    paths = [tmp_path / str(i) for i in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
        file_key(path)
    assert memoized_keys(paths) == [None, None, *(bytes_key(str(i).encode()) for i in range(2, 5))]


def test_a_memoized_digest_takes_little_memory(tmp_path, no_recent_changes, monkeypatch):
    monkeypatch.setattr(fingerprints, "_memo", {})
    status = os.stat(tmp_path)
    paths = [f"/data/images/{i}.jpg" for i in range(20_000)]  # the caller holds these too
    tracemalloc.start()
    try:
        for path in paths:
            fingerprints._memoize(path, status, status, bytes_key(path.encode()))
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used / len(paths) < 200
