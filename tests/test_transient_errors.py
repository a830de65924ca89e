"""Storage that fails for a while: reads are repeated, and an outage never becomes a row of NaN."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tlfeatures import CNNFeatures, _files, fingerprints
from tlfeatures.errors import ImageReadError, TransientReadError
from tlfeatures.images import Images


class Storage:
    """A disk that fails for one file a number of times."""

    def __init__(self, monkeypatch, name, code, n_failures):
        self.name, self.code, self.n_failures, self.pauses = name, code, n_failures, []
        monkeypatch.setattr(fingerprints, "open", self.open, raising=False)
        # not time.sleep itself, which threads of other tests may call
        monkeypatch.setattr(_files, "time", SimpleNamespace(sleep=self.pauses.append))

    def open(self, path, mode):
        if os.path.basename(path) == self.name and self.n_failures:
            self.n_failures -= 1
            raise OSError(self.code, os.strerror(self.code), path)
        return open(path, mode)


@pytest.fixture
def png_files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), "u1")).save(tmp_path / f"{i:02}.png")
    return [str(tmp_path / f"{i:02}.png") for i in range(12)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ESTALE])
def test_reads_are_repeated_when_storage_fails(png_files, monkeypatch, code):
    storage = Storage(monkeypatch, "07.png", code, n_failures=3)
    keys, errors = Images.of(png_files).keys(1)
    assert errors == {} and keys.any(axis=1).all()
    assert storage.pauses == [0.2, 1.0, 5.0]


@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_an_outage_gives_no_rows_of_nan_and_loses_no_finished_rows(
    png_files, monkeypatch, tmp_path, on_error
):
    cnn = CNNFeatures(
        "tiny", image_size=32, cache=tmp_path / "store", batch_size=4, on_error=on_error, n_jobs=1
    )
    storage = Storage(monkeypatch, "09.png", errno.EIO, n_failures=100)
    with pytest.raises(TransientReadError, match="09") as caught:
        cnn.fit_transform(png_files)
    assert "in 4 attempts" in str(caught.value) and "does not count as an unreadable file" in str(
        caught.value
    )
    assert isinstance(caught.value, OSError) and not isinstance(caught.value, ImageReadError)
    storage.n_failures = 0
    assert np.isfinite(cnn.fit_transform(png_files)).all()


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG])
def test_lasting_errors_of_one_file_are_not_retried(png_files, monkeypatch, code):
    storage = Storage(monkeypatch, "07.png", code, n_failures=1)
    assert list(Images.of(png_files).keys(1)[1]) == [7]
    assert storage.pauses == []
