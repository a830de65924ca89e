"""Files of embeddings that are written in Python; tests/test_cli.py has tests of their contents."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tlfeatures import CNNFeatures
from tlfeatures.embedding_files import is_embedding_file, list_files, write_embeddings
from tlfeatures.errors import InvalidParameterError

CNN = {"model": "tiny", "image_size": 32, "cache": None}


def test_images_in_memory_are_named_by_their_position(tmp_path, photos):
    images = [Image.open(path).convert("RGB") for path in photos.paths[:2]]
    extracted = write_embeddings(tmp_path / "x.parquet", CNNFeatures(**CNN), images)
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert table["path"].tolist() == ["X[0]", "X[1]"]
    assert table["label"].isna().all() and list(table)[:4] == ["path", "digest", "label", "error"]
    np.testing.assert_array_equal(table.to_numpy()[:, 4:].astype(np.float32), extracted.features)
    assert extracted.counts.images == extracted.counts.computed == 2


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
