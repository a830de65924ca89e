"""The embedding store with crashes, failing disks, damaged files and crafted files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

import tlfeatures
from benchmarks import store_faults as bench
from tests.warning_helpers import of_test
from tlfeatures import _files
from tlfeatures.errors import StoreError, StoreWarning
from tlfeatures.fingerprints import bytes_key
from tlfeatures.store import EmbeddingStore
from tlfeatures.store import _disk as files
from tlfeatures.store import _index as index
from tlfeatures.store import _lock as lock
from tlfeatures.store import _maintenance as maintenance
from tlfeatures.store import _segment as segment
from tlfeatures.store import _writer as writer

RECIPE = bench.RECIPE
ROOT = Path(tlfeatures.__file__).parents[1]
CODES = [errno.EIO, errno.ENOSPC, errno.EDQUOT]


@pytest.fixture(autouse=True)
def skip_fsync(monkeypatch):
    """Skip real syncs: the simulated disk records which files and folders are synced."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    keys = bench.batch([seed], n)
    return keys, bench.rows_of(keys)


def segments(store: EmbeddingStore) -> list[Path]:
    return sorted(store.root.glob("v1/*/*.h5"))


def temporary(store: EmbeddingStore) -> list[Path]:
    return list(store.root.rglob(".tmp-*"))


def check_stored(store: EmbeddingStore, keys: np.ndarray) -> np.ndarray:
    """Check that stored rows are correct and nothing warns in a new process; return which keys are stored."""
    index._reset_after_fork()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, is_stored = store.get(RECIPE, keys)
    assert np.array_equal(got[is_stored], bench.rows_of(keys[is_stored]))
    assert store.verify() == []
    return is_stored


# ---------------------------------------------------------------- crashes (guarantees 1 and 2)


class Died(BaseException):
    """The simulated process has ended: none of its later system calls takes place."""


class Disk:
    """Replacement for ``os`` that may end the process before any call that changes the disk, or lose power.

    After `lose_power` only synced content is left: file contents after fsync of the file, names after fsync of
    their folder. With ``names=True`` all names are left.
    """

    def __init__(self, calls: int | None = None, torn: bool = False) -> None:
        self.left, self.torn, self.log = calls, torn, []
        self.paths: dict[int, str] = {}
        self.unsynced: dict[str, str] = {}  # file -> its folder
        self.names: list[tuple[str, str, str, bytes | None]] = []  # folder, operation, path, previous content

    def __getattr__(self, name):
        return getattr(os, name)

    def _step(self, what: str) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Died
            self.left -= 1
        self.log.append(what)

    def open(self, path, flags, mode=0o777):
        if flags & os.O_CREAT:
            self._step(f"create {os.path.basename(path)[:4]}")
            self.names.append((os.path.dirname(path), "create", path, None))
            self.unsynced[path] = os.path.dirname(path)
        fd = os.open(path, flags, mode)
        self.paths[fd] = str(path)
        return fd

    def write(self, fd, data):
        if self.left == 0 and self.torn:
            os.write(fd, data[: len(data) // 2])
        self._step("write")
        return os.write(fd, data)

    def fsync(self, fd):
        path = self.paths[fd]
        self._step(f"fsync {'folder' if os.path.isdir(path) else 'file'}")
        self.unsynced.pop(path, None)
        self.names = [n for n in self.names if n[0] != path]

    def replace(self, source, target):
        self._step(f"replace {os.path.splitext(target)[1]}")
        before = Path(target).read_bytes() if os.path.exists(target) else None
        os.replace(source, target)
        self.names.append((os.path.dirname(target), "replace", target, before))
        if source in self.unsynced:
            self.unsynced[target] = self.unsynced.pop(source)

    def mkdir(self, path, mode=0o777):
        self._step("mkdir")
        os.mkdir(path, mode)
        self.names.append((os.path.dirname(path), "mkdir", path, None))

    def makedirs(self, path, mode=0o777, exist_ok=False):
        if os.path.isdir(path):
            return
        self._step("mkdir")
        assert os.path.isdir(os.path.dirname(path)), "the simulated disk makes one folder at a time"
        os.mkdir(path, mode)
        self.names.append((os.path.dirname(path), "mkdir", path, None))

    def unlink(self, path):
        self._step("unlink")
        os.unlink(path)

    def lose_power(self, names: bool) -> None:
        for path in self.unsynced:
            if os.path.exists(path):
                os.truncate(path, 0)
        for _, what, path, before in reversed([] if names else self.names):
            if what == "mkdir":
                shutil.rmtree(path)
            elif before is not None:
                Path(path).write_bytes(before)
            elif os.path.lexists(path):
                os.unlink(path)


@contextlib.contextmanager
def disk(**options):
    """Replace ``os`` in the modules of the store by a `Disk`, in a process that has published nothing yet."""
    fake_os = Disk(**options)
    files._durable.clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in (_files, files, lock, maintenance):
            patch.setattr(module, "os", fake_os)
        with contextlib.suppress(Died):
            yield fake_os


def test_publish_writes_syncs_renames_and_syncs_the_folder_in_this_order(store):
    with disk() as first:
        store.publish(RECIPE, *rows(5))
    assert first.log[:3] == ["mkdir"] * 3
    content = ["create .tmp", "write", "fsync file"]
    above = ["fsync folder"] * len(Path(store._path(RECIPE)).parents)
    publish = [*content, "replace .json", "fsync folder", *above]
    assert first.log[3:] == [*publish, *content, "replace .h5", "fsync folder"]
    assert not first.names
    assert not first.unsynced


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("power", [None, "names lost", "names kept"])
def test_an_interrupted_publish_stores_all_rows_or_none(tmp_path, power, torn):
    """Guarantee 1: after the last system call all rows survive; after any other, all or none."""
    old, new = rows(20, 1)[0], rows(20, 2)[0]
    seen = set()
    for has_rows in (False, True):
        with disk() as complete:
            store = EmbeddingStore(tmp_path / f"whole {has_rows}")
            if has_rows:
                store.publish(RECIPE, old, bench.rows_of(old))
            start = len(complete.log)
            store.publish(RECIPE, new, bench.rows_of(new))
        for calls in range(start, len(complete.log) + 1):
            store = EmbeddingStore(tmp_path / f"{has_rows} {calls}")
            returned = False
            with disk(calls=calls, torn=torn) as dying:
                if has_rows:
                    store.publish(RECIPE, old, bench.rows_of(old))
                store.publish(RECIPE, new, bench.rows_of(new))
                returned = True
            assert returned == (calls == len(complete.log))
            if power:
                dying.lose_power(names=power == "names kept")
            is_stored = check_stored(store, new)
            assert is_stored.all() if returned else is_stored.all() or not is_stored.any()
            seen.add(bool(is_stored.all()))
            if has_rows:
                assert check_stored(store, old).all()
            files._durable.clear()
            store.publish(RECIPE, new, bench.rows_of(new))  # the next run completes the work
            assert check_stored(store, new).all()
    assert seen == {True, False}


def test_a_store_cleared_at_any_moment_of_publish(tmp_path):
    old, new = rows(5, 1)[0], rows(5, 2)[0]
    counts = []
    for moment in range(100):
        store = EmbeddingStore(tmp_path / str(moment))
        store.publish(RECIPE, old, bench.rows_of(old))
        with disk() as fake_os:
            step, calls = fake_os._step, []

            def clear(what, step=step, calls=calls, moment=moment, store=store):
                if len(calls) == moment:
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(maintenance, "os", os)
                        EmbeddingStore(store.root).clear()
                calls.append(what)
                step(what)

            fake_os._step = clear
            store.publish(RECIPE, new, bench.rows_of(new))
        counts.append(int(check_stored(store, new).sum()))
        assert temporary(store) == []
        if moment >= len(calls):
            break
    assert counts.count(5) >= 5  # cleared before the end: published again
    assert set(counts) <= {0, 5}


def test_the_simulated_power_loss_detects_a_missing_sync(store, monkeypatch):
    """Checks that the simulation can make the tests above fail."""
    monkeypatch.setattr(_files, "sync_folder", lambda folder: None)
    with disk() as broken:
        store.publish(RECIPE, *rows(5))
    broken.lose_power(names=False)
    assert not store.root.exists()


def test_an_interrupted_compact_keeps_every_row(tmp_path):
    keys = rows(40)[0]

    def filled(name: str) -> EmbeddingStore:
        store = EmbeddingStore(tmp_path / name)
        for i in range(0, 40, 10):
            store.publish(RECIPE, keys[i : i + 12], bench.rows_of(keys[i : i + 12]))
        return store

    store = filled("whole")
    with disk() as complete:
        store.compact()
    assert len(segments(store)) == 1
    assert complete.log.count("unlink") == 5  # four segments and the lock
    for calls in range(len(complete.log)):
        store = filled(str(calls))
        with disk(calls=calls) as dying:
            store.compact()
        dying.lose_power(names=False)
        lock._locked.clear()
        assert check_stored(store, keys).all()


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    """Results of a short run of benchmarks/store_faults.py in a separate process."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork and SIGKILL")
    path = tmp_path_factory.mktemp("faults") / "faults.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "store_faults.py"), "--json", str(path)]
    command += ["--kills", "50", "--damage", "3000", "--mutants", "2000"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())["figures"]


@pytest.mark.slow
def test_fifty_kills_of_two_writers_lose_nothing_that_was_published(figures):
    kills = figures["kills"]
    assert kills["kills"] == 50
    assert kills["published"] >= 50
    assert kills["temporary_files"] >= 5  # some kills happened inside publish
    for name in ("lost_rows", "wrong_rows", "partial_batches", "damaged_files"):
        assert kills[name] == 0, name


# ---------------------------------------------------------------- failing disks (guarantee 6)


class Failing:
    """Replacement for ``os`` in which the n-th call of one function fails, or all calls from then on."""

    def __init__(self, name: str, nth: int, code: int, forever: bool = False) -> None:
        self._name, self._left, self._code, self._forever = name, nth, code, forever
        self.has_failed = False

    def __getattr__(self, name):
        real = getattr(os, name)
        if name != self._name:
            return real

        def call(*args, **options):
            if name == "open" and not args[1] & (os.O_CREAT | os.O_DIRECTORY):
                return real(*args, **options)
            self._left -= 1
            if self._left < 0 and (self._forever or not self.has_failed):
                self.has_failed = True
                if name == "close":
                    real(*args)
                raise OSError(self._code, os.strerror(self._code))
            return real(*args, **options)

        return call


@contextlib.contextmanager
def failing(*fake_os_options, modules=(_files, files), **options):
    fake_os = Failing(*fake_os_options, **options)
    files._durable.clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "os", fake_os)
        yield fake_os


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["open", "write", "fsync", "close", "replace", "mkdir", "makedirs", "lstat"])
def test_a_failing_system_call_raises_store_error_and_leaves_no_partial_file(tmp_path, name, code):
    old, new = rows(10, 1)[0], rows(10, 2)[0]
    failures = 0
    for has_rows in (False, True):
        for nth in range(100):
            store = EmbeddingStore(tmp_path / f"{has_rows} {nth}")
            if has_rows:
                store.publish(RECIPE, old, bench.rows_of(old))
            with failing(name, nth, code) as fake_os:
                try:
                    store.publish(RECIPE, new, bench.rows_of(new))
                except StoreError as error:
                    assert error.errno == code
                    assert error.filename == str(store.root)
                    assert "cannot write to the embedding store" in str(error)
                    assert ("free space" in str(error)) == (code != errno.EIO)
                    has_raised = True
                else:
                    has_raised = False
            if not fake_os.has_failed:
                assert not has_raised
                break
            assert has_raised or name in ("lstat", "close")  # some of these failures are harmless
            failures += 1
            assert temporary(store) == []
            is_stored = check_stored(store, new)
            assert is_stored.all() or (has_raised and not is_stored.any())
            assert check_stored(store, old).all() == has_rows
            store.publish(RECIPE, new, bench.rows_of(new))
            assert check_stored(store, new).all()
        else:
            raise AssertionError("every call failed")
    assert failures >= 1


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_a_temporary_file_that_cannot_be_deleted_is_harmless(store, code, monkeypatch):
    keys = rows(10)[0]
    store.publish(RECIPE, keys[:5], bench.rows_of(keys[:5]))

    def fail(*_):
        raise OSError(code, os.strerror(code))

    fake_os = Failing("fsync", 0, code)
    fake_os.unlink = fail
    monkeypatch.setattr(files, "os", fake_os)
    monkeypatch.setattr(_files, "os", fake_os)
    with pytest.raises(StoreError):
        store.publish(RECIPE, keys, bench.rows_of(keys))
    monkeypatch.undo()
    assert len(temporary(store)) == 1
    assert check_stored(store, keys).sum() == 5


def test_short_writes_are_continued(store, monkeypatch):
    class Short(Disk):
        def write(self, fd, data):
            return os.write(fd, data[: max(1, len(data) // 3)])

    monkeypatch.setattr(_files, "os", Short())
    store.publish(RECIPE, *rows(50))
    monkeypatch.undo()
    assert check_stored(store, rows(50)[0]).all()


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_full_disk_warns_once_and_keeps_stored_rows(store, monkeypatch, name):
    keys = rows(40)[0]
    monkeypatch.setattr(writer, "COMMIT_BYTES", 1)
    store.publish(RECIPE, keys[:1], bench.rows_of(keys[:1]))
    with failing(name, 6, errno.ENOSPC, forever=True), warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        with store.writer(RECIPE) as w:
            for i in range(40):
                w.add(keys[i : i + 1], [bench.rows_of(keys[i : i + 1])])
    (warning,) = of_test(record)
    assert warning.category is StoreWarning
    assert "No space left on device; free space" in str(warning.message)
    assert w.failed
    is_stored = check_stored(store, keys)
    assert is_stored.any() != is_stored.all()
    assert not is_stored[is_stored.sum() :].any()  # it stops after the first failure


def test_a_batch_job_raises_on_a_full_disk_and_can_continue(store, monkeypatch):
    keys = rows(9)[0]
    writing = store.writer(RECIPE, on_failure="raise")
    with failing("write", 0, errno.ENOSPC, forever=True), pytest.raises(StoreError) as caught, writing as w:
        w.add(keys, [bench.rows_of(keys)])
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, OSError)
    writing.close()  # space was freed: the rows were still pending
    assert check_stored(store, keys).all()


def test_an_error_of_the_caller_is_not_hidden_by_a_full_disk(store):
    def run():
        with store.writer(RECIPE, on_failure="raise") as w:
            w.add(*(lambda k, f: (k, [f]))(*rows(3)))
            raise KeyboardInterrupt

    full = failing("write", 0, errno.ENOSPC, forever=True)
    with full, pytest.warns(StoreWarning, match="No space left"), pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_a_read_only_store_is_read_with_one_warning(store, monkeypatch, code):
    """File modes do not restrict root, so the errors are injected."""
    (keys, features), more = rows(20), rows(5, 1)[0]
    store.publish(RECIPE, keys[:10], features[:10])
    store.publish(RECIPE, keys[10:], features[10:])
    bad = segments(store)[0]
    bad.write_bytes(b"damaged")
    index._reset_after_fork()

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    fake_os = Failing("open", 0, code, forever=True)
    for name in ("mkdir", "makedirs", "replace", "unlink"):
        setattr(fake_os, name, refuse)
    monkeypatch.setattr(files, "os", fake_os)
    monkeypatch.setattr(_files, "os", fake_os)
    monkeypatch.setattr(lock, "os", fake_os)
    monkeypatch.setattr(os, "utime", refuse)
    reads = []
    monkeypatch.setattr(index, "load_segment", lambda p: reads.append(p) or files.load_segment(p))
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        with store.row_locks([RECIPE]):
            for _ in range(3):
                got, is_stored = store.get(RECIPE, keys)
        assert is_stored.sum() == 10
        assert np.array_equal(got[is_stored], features[is_stored])
        store.put_sidecar({"a": 1}, {"b": 1})
        with store.writer(RECIPE) as w:
            w.add(more, [bench.rows_of(more)])
    assert [
        ("has the digest" in str(t.message), "cannot write" in str(t.message)) for t in of_test(record)
    ] == [
        (False, False),
        (False, True),
    ]
    assert "the digest of its content does not match its file name" in str(of_test(record)[0].message)
    assert reads.count(str(bad)) == 2  # read twice, then remembered as damaged
    assert bad.read_bytes() == b"damaged"
    with pytest.raises(StoreError, match="pass a folder that you can write to"):
        store.publish(RECIPE, more, bench.rows_of(more))


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="file modes do not restrict root",
)
def test_a_folder_without_write_permission(store):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    folders = [store.root, *(p for p in store.root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert check_stored(store, keys).all()
        with pytest.raises(StoreError, match="Permission denied"):
            store.publish(RECIPE, *rows(10, 1))
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        store = EmbeddingStore(root)
        assert not store.get(RECIPE, rows(3)[0])[1].any()
        assert store.info()["recipes"] == []
        with pytest.raises(StoreError, match="pass a folder that you can write to as `cache`"):
            store.publish(RECIPE, *rows(3))
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("place", ["v1", "recipe"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_file_in_place_of_a_folder_is_left_alone(store, tmp_path, place, kind):
    other = EmbeddingStore(tmp_path / "other")
    other.publish(RECIPE, *rows(3))
    other.put_sidecar({"a": 1}, {"b": 2})
    stale = other.root / "v1" / "networks" / f".tmp-{'0' * 24}"
    stale.touch()
    os.utime(stale, (0, 0))
    (stale.parent / f"{'0' * 32}.json").write_text("damaged")
    at = store.root / "v1" if place == "v1" else Path(store._path(RECIPE))
    at.parent.mkdir(parents=True)
    if kind == "link":
        at.symlink_to(other.root / "v1" if place == "v1" else other._path(RECIPE))
    else:
        at.write_text("x")
    assert not store.get(RECIPE, rows(3)[0])[1].any()
    with pytest.raises(StoreError, match="expected a folder, but there is a file or a link"):
        store.publish(RECIPE, *rows(3, 1))
    store.compact()
    assert stale.exists()
    assert store.verify() == []
    store.clear()
    store.prune(0)
    assert other.get_sidecar({"a": 1}) == {"b": 2}
    assert other.get(RECIPE, rows(3)[0])[1].all()
    assert len(segments(other)) == 1


@pytest.mark.parametrize("code", [*CODES, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("task", ["compact", "prune", "clear"])
def test_a_file_that_cannot_be_deleted_raises_store_error_and_loses_nothing(store, task, code):
    keys = rows(30)[0]
    for i in range(0, 30, 10):
        store.publish(RECIPE, keys[i : i + 10], bench.rows_of(keys[i : i + 10]))
    run = {"compact": store.compact, "prune": lambda: store.prune(0), "clear": store.clear}[task]
    with (
        failing("unlink", 0, code, forever=True, modules=(maintenance,)),
        pytest.raises(StoreError) as caught,
    ):
        run()
    assert caught.value.errno == code
    assert check_stored(store, keys).all()
    run()
    assert check_stored(store, keys).all() == (task == "compact")


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_compact_on_a_failing_disk_keeps_every_row(tmp_path, code):
    keys = rows(30)[0]
    for name, nth in [(n, i) for n in ("open", "write", "fsync", "replace") for i in range(2)]:
        store = EmbeddingStore(tmp_path / f"{name} {nth}")
        for i in range(0, 30, 10):
            store.publish(RECIPE, keys[i : i + 10], bench.rows_of(keys[i : i + 10]))
        with failing(name, nth, code, forever=True), pytest.raises(StoreError):
            store.compact()
            if nth:  # there is only one such call
                raise StoreError
        assert temporary(store) == []
        assert check_stored(store, keys).all()


# ---------------------------------------------------------------- damage (guarantees 3 and 4)


@pytest.mark.slow
def test_three_thousand_random_damages_are_detected(figures):
    assert figures["damage"] == {"damaged": 3000, "noticed": 3000}


@pytest.mark.parametrize("when", ["cold", "warm"])
def test_a_damaged_segment_is_quarantined_warned_about_once_and_recomputed(store, when):
    keys, features = rows(40)
    store.publish(RECIPE, keys[:20], features[:20])
    store.publish(RECIPE, keys[15:], features[15:])
    first = next(p for p in segments(store) if np.array_equal(segment_keys(p), keys[:20]))
    good = first.read_bytes()
    assert store.contains(RECIPE, keys).all()
    first.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    if when == "cold":
        index._reset_after_fork()
    index._segments.drop(str(first))
    with pytest.warns(StoreWarning) as record:
        got, is_stored = store.get(RECIPE, keys)
        store.get(RECIPE, keys)
    assert is_stored.tolist() == [False] * 15 + [True] * 25  # five of its rows are in the other segment too
    assert np.array_equal(got[is_stored], features[is_stored])
    assert len(of_test(record)) == 1
    assert str(first) in str(of_test(record)[0].message)
    assert not first.exists()
    assert (first.parent / "quarantine" / first.name).exists()
    assert store.info()["recipes"][0]["quarantined"] == 1
    store.publish(RECIPE, keys[:20], features[:20])  # the same content, hence the same name
    assert first.read_bytes() == good
    assert check_stored(store, keys).all()


def segment_keys(path: Path) -> np.ndarray:
    with h5py.File(path, "r") as f:
        return f["keys"][:]


def test_publish_replaces_a_damaged_file_of_the_same_name(store):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    (path,) = segments(store)
    path.write_bytes(b"x")
    store.publish(RECIPE, keys, features)
    assert check_stored(store, keys).all()


def test_a_damaged_file_is_read_again_after_it_changed(store, monkeypatch):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    (path,) = segments(store)
    good = path.read_bytes()
    path.write_bytes(b"x")
    index._reset_after_fork()
    monkeypatch.setattr(index, "quarantine", lambda path: None)
    with pytest.warns(StoreWarning):
        assert not store.contains(RECIPE, keys).any()
    path.write_bytes(good)
    assert store.contains(RECIPE, keys).all()


def test_a_failed_read_is_repeated_once(store, monkeypatch):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    for name in ("open", "fstat", "read"):
        index._reset_after_fork()
        calls = []

        def once(*args, name=name, calls=calls):
            calls.append(args)
            if len(calls) == 1:
                raise OSError(errno.EIO, "Input/output error")
            return getattr(os, name)(*args)

        fake_os = Disk()
        setattr(fake_os, name, once)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(files, "os", fake_os)
            patch.setattr(_files, "os", fake_os)
            warnings.simplefilter("error")
            assert np.array_equal(store.get(RECIPE, keys)[0], features)
        assert len(calls) == 2


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE], ids=errno.errorcode.get)
def test_an_unreadable_file_is_missing_but_not_quarantined(store, monkeypatch, code):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    index._reset_after_fork()

    def fail(*_):
        raise OSError(code, os.strerror(code))

    fake_os = Disk()
    fake_os.open = fail
    with monkeypatch.context() as patch, pytest.warns(StoreWarning, match=os.strerror(code)) as record:
        patch.setattr(files, "os", fake_os)
        patch.setattr(_files, "os", fake_os)
        for _ in range(3):
            assert not store.get(RECIPE, keys)[1].any()
    assert len(of_test(record)) == 1
    assert check_stored(store, keys).all()


def test_an_unreadable_folder_is_warned_about_once(store, monkeypatch):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    index._reset_after_fork()

    def fail(*_):
        raise OSError(errno.EACCES, "Permission denied")

    fake_os = Disk()
    fake_os.listdir = fail
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", fake_os)
        patch.setattr(_files, "os", fake_os)
        with pytest.warns(StoreWarning, match="Permission denied") as record:
            for _ in range(3):
                assert not store.get(RECIPE, keys)[1].any()
        assert len(of_test(record)) == 1
        with pytest.raises(StoreError, match="cannot read the embedding store: Permission denied"):
            store.info()
    assert check_stored(store, keys).all()


# ---------------------------------------------------------------- crafted files (guarantees 4 and 9)


@pytest.mark.slow
def test_crafted_layouts_are_refused_at_once(figures):
    crafted = figures["crafted"]
    assert len(crafted) >= 30
    assert [name for name, result in crafted.items() if result["reason"] == "ACCEPTED"] == []
    assert crafted["1 TB declared shape"]["reason"].startswith("features declares shape (4294967296, 64)")
    for name in ("external storage", "virtual dataset", "filter", "chunks"):
        assert crafted[name]["reason"].startswith("features has chunks, filters or external storage"), name
    for name in ("external link", "soft link", "soft link to itself"):
        assert crafted[name]["reason"].startswith("features is a link"), name


@pytest.mark.slow
def test_random_metadata_under_a_valid_digest_crashes_nothing(figures):
    mutants = figures["mutants"]
    assert mutants["mutants"] == 2000
    assert mutants["refused"] > 500


def test_a_segment_made_by_plain_h5py_in_the_exact_layout_is_accepted(store):
    """Shows that the files above are refused because of their layout."""
    keys, features = rows(8)
    with h5py.File.in_memory() as file:
        file["features"], file["keys"] = features, keys
        file["recipe"] = np.frombuffer(bench.TEXT, "u1")[None]
        file.flush()
        content = file.id.get_file_image()
    folder = Path(store._path(RECIPE))
    folder.mkdir(parents=True)
    (folder / f"{bytes_key(content).hex()}.h5").write_bytes(content)
    assert check_stored(store, keys).all()


def test_hdf5_is_skipped_only_for_metadata_that_it_has_parsed(store, monkeypatch):
    good, other = bench.image(40), bytearray(bench.image(40))
    read = []
    parse_layout = segment._parse_layout
    monkeypatch.setattr(segment, "_accepted", {})
    monkeypatch.setattr(segment, "_parse_layout", lambda image: read.append(image) or parse_layout(image))
    rows_at = len(good) - 40 * (16 + 256) - len(bench.TEXT)
    other[rows_at] ^= 1  # another row, equal metadata
    for _ in range(2):
        assert segment.decode(good, bench.FOLDER).features.tobytes() in good
        first = segment.decode(bytes(other), bench.FOLDER).features[0, 0]
        assert first != bench.rows_of(bench.batch([40], 40))[0, 0]
    assert read == [good]
    for at in range(rows_at):  # HDF5 parses any change in the metadata
        bad = bytearray(good)
        bad[at] ^= 1
        with contextlib.suppress(ValueError):
            segment.decode(bytes(bad), bench.FOLDER)
        assert read[-1] == bad
    for n in range(1, 30):
        monkeypatch.setattr(segment, "_ACCEPTED", 10)
        segment.decode(bench.image(n), bench.FOLDER)
        assert len(segment._accepted) <= 10


def test_metadata_between_rows_is_always_parsed(monkeypatch):
    keys, features = rows(8)
    monkeypatch.setattr(segment, "_accepted", {})
    with h5py.File.in_memory(meta_block_size=256) as file:
        file["features"], file["keys"] = features, keys
        file["recipe"] = np.frombuffer(bench.TEXT, "u1")[None]
        file.flush()
        content = file.id.get_file_image()
    assert np.array_equal(segment.decode(content, bench.FOLDER).features, features)
    assert segment._accepted == {}


class Opens:
    """Counts how often a file is opened by anybody (inotify)."""

    def __init__(self, path: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0 or self.libc.inotify_add_watch(self.fd, os.fsencode(path), 0x20) < 0:
            pytest.skip("inotify does not work here")

    def count(self) -> int:
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self.fd, 65536)) // 16
        return 0


@pytest.mark.parametrize("recipe", [b'{"network":"toy"}', b"[6]", b"{", b"\xff", b"[" * 100_000])
def test_a_crafted_recipe_is_quarantined(store, recipe):
    """The digests are valid, but the recipe has no width or is invalid."""
    image = segment.encode(recipe, rows(2)[0], np.zeros((2, 6), "f4"))
    folder = store.root / "v1" / bytes_key(recipe).hex()
    folder.mkdir(parents=True)
    (folder / f"{bytes_key(image).hex()}.h5").write_bytes(image)
    (folder / "recipe.json").write_bytes(recipe)
    assert len(store.verify()) == (1 if recipe.startswith(b'{"') else 2)
    with pytest.warns(StoreWarning, match="is unreadable"):
        (one,) = store.info()["recipes"]
    assert (one["rows"], one["quarantined"]) == (0, 1)
    assert one["recipe"] in (None, {"network": "toy"})
    store.compact()
    assert store.clear()["removed_files"] == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs inotify")
def test_no_crafted_file_makes_the_store_open_another_file(tmp_path):
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["features"] = np.ones((8, 64), "f4")
    crafted = bench.crafted(str(outside))
    opens = Opens(outside)
    naive = 0
    for name in ("external link", "external storage", "virtual dataset"):
        with h5py.File.in_memory(file_image=crafted[name]) as file, contextlib.suppress(Exception):
            file["features"][:]
        naive += opens.count() > 0
    assert naive == 3  # plain h5py opens it each time
    for name, content in crafted.items():
        store = EmbeddingStore(tmp_path / name)
        folder = Path(store._path(RECIPE))
        folder.mkdir(parents=True)
        (folder / f"{bytes_key(content).hex()}.h5").write_bytes(content)
        with pytest.warns(StoreWarning):
            assert not store.get(RECIPE, bench.batch([1], 8))[1].any()
        store.verify()
        store.info()
        store.compact()
        assert opens.count() == 0, name


@pytest.mark.skipif(os.name == "nt", reason="POSIX file kinds")
@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "link to itself", "pipe", "folder", "huge", "empty"]
)
def test_anything_but_a_regular_file_is_refused_at_once(store, tmp_path, kind):
    keys, features = rows(10)
    store.publish(RECIPE, keys, features)
    (path,) = segments(store)
    away = tmp_path / "away.h5"
    path.rename(away)
    index._reset_after_fork()
    match kind:
        case "link":
            path.symlink_to(away)
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "link to itself":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "huge":
            path.touch()
            os.truncate(path, 1 << 40)
        case "empty":
            path.touch()
    assert [d["path"] for d in store.verify()] == [str(path)]
    with pytest.warns(StoreWarning) as record:
        assert not store.contains(RECIPE, keys).any()
    assert len(of_test(record)) == 1
    assert not os.path.lexists(path)
    assert away.exists()
    store.publish(RECIPE, keys, features)
    assert check_stored(store, keys).all()


def test_a_segment_larger_than_the_limit_is_never_published(monkeypatch):
    width = segment._MAX_WIDTH
    assert width * 4 + 16 + segment._METADATA_BYTES < segment.MAX_FILE_BYTES
    assert segment.rows_per_segment(width) == 1
    assert segment.TARGET_BYTES + segment._METADATA_BYTES < segment.MAX_FILE_BYTES
