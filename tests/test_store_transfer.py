"""`EmbeddingStore.push` and `pull`, and their commands, between folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlfeatures import EmbeddingStore
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError, StoreError

RECIPES = [{"network": name, "width": 8, "dtype": "float32"} for name in ("a", "b")]
KEYS = np.random.default_rng(0).integers(0, 256, (40, 16), "u1")
ROWS = np.random.default_rng(1).normal(size=(40, 8)).astype("f4")


@pytest.fixture
def filled(store):
    for recipe in RECIPES:
        for i in range(0, 40, 10):
            store.publish(recipe, KEYS[i : i + 10], ROWS[i : i + 10])
    store.put_sidecar({"model": "a"}, {"width": 8})
    return store


def segments(root):
    return sorted(root.glob("v1/*/*.h5"))


@pytest.mark.parametrize("as_uri", [False, True])
def test_push_and_pull_copy_what_is_missing_by_name(filled, tmp_path, as_uri):
    there = tmp_path / "a copy"
    url = there.as_uri() if as_uri else there
    pushed = filled.push(url)
    assert (pushed["segments"], pushed["files"], pushed["skipped_files"], pushed["damaged"]) == (8, 11, 0, [])
    assert pushed["bytes"] == sum(file.stat().st_size for file in there.rglob("*") if file.is_file())
    again = filled.push(url)
    assert again["files"] == again["bytes"] == 0 and again["skipped_bytes"] == pushed["bytes"]
    other = EmbeddingStore(tmp_path / "other")
    other.publish(RECIPES[0], KEYS[:10], ROWS[:10])
    pulled = other.pull(url)
    assert pulled["segments"] == 7 and pulled["skipped_files"] == 2
    for recipe in RECIPES:
        rows, is_stored = other.get(recipe, KEYS)
        assert is_stored.all()
        np.testing.assert_array_equal(rows, ROWS)
    assert other.get_sidecar({"model": "a"}) == {"width": 8} and other.verify() == []
    assert not list(there.rglob("*.index")) and oct(there.stat().st_mode)[-2:] == "00"


def test_sidecars_and_files_of_others_in_the_target_stay(filled, tmp_path):
    other = EmbeddingStore(tmp_path / "other")
    other.put_sidecar({"model": "a"}, {"width": 99})
    (tmp_path / "other" / "v1" / "notes.txt").write_text("mine")
    (filled.root / "v1" / "networks" / "notes.txt").write_text("not copied")
    assert filled.push(other.root)["segments"] == 8
    assert other.get_sidecar({"model": "a"}) == {"width": 99}
    assert (tmp_path / "other" / "v1" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "other" / "v1" / "networks" / "notes.txt").exists()


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes(content[:-5] if how == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("how", ["truncated", "changed"])
def test_damaged_files_are_reported_and_not_copied(filled, tmp_path, how):
    there = tmp_path / "there"
    filled.push(there)
    broken = [segments(there)[3], next(there.glob("v1/*/recipe.json")), next(there.glob("v1/networks/*"))]
    for path in broken:
        damage(path, how)
    other = EmbeddingStore(tmp_path / "other")
    result = other.pull(there)
    assert [entry["path"] for entry in result["damaged"]] == sorted(map(str, broken))
    assert "the digest of its content does not match its file name" in str(result["damaged"])
    assert result["segments"] == 7 and other.verify() == []
    assert other.pull(there)["damaged"] == result["damaged"]


def test_a_truncated_file_in_the_target_is_replaced(filled, tmp_path):
    there = tmp_path / "there"
    filled.push(there)
    damage(segments(there)[0], "truncated")
    assert filled.push(there)["segments"] == 1
    assert EmbeddingStore(there).verify() == []


def test_segments_that_are_compacted_meanwhile_are_copied_in_their_new_form(filled, tmp_path):
    calls = []

    def compact_once(done, total):
        if not calls:
            filled.compact()
        calls.append((done, total))

    filled.push(tmp_path / "there", on_progress=compact_once)
    assert calls[-1][0] == calls[-1][1]
    rows, is_stored = EmbeddingStore(tmp_path / "there").get(RECIPES[1], KEYS)
    assert is_stored.all()
    np.testing.assert_array_equal(rows, ROWS)


def test_pull_without_a_store_and_push_without_permission_raise(filled, tmp_path):
    with pytest.raises(StoreError, match=r"there is no embedding store, or it is empty.*none"):
        filled.pull(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to the embedding store"):
        filled.push(tmp_path / "file")


@pytest.mark.parametrize("url", ["gcs://bucket/x", "ftp://host/x", "https://host/x", Path("s3://bucket/x")])
def test_a_url_of_an_unknown_kind_is_not_the_name_of_a_folder(filled, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for copy in (filled.push, filled.pull):
        with pytest.raises(InvalidParameterError, match="`url` must be a local folder or start with s3://"):
            copy(url)
    assert not any(name.endswith(":") for name in os.listdir(tmp_path))


def test_a_store_in_the_home_folder(filled, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    filled.push("~/backup")
    assert EmbeddingStore(tmp_path / "home" / "backup").contains(RECIPES[0], KEYS).all()


def test_cache_push_and_pull(filled, tmp_path, capsys):
    there, other = str(tmp_path / "there"), str(tmp_path / "other")
    assert main(["cache", "push", there, str(filled.root)]) == 0
    assert "Copied 11 files of" in capsys.readouterr().out
    assert main(["cache", "pull", there, other, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == 11 and report["damaged"] == [] and report["bytes"] > 0
    damage(segments(tmp_path / "there")[0], "changed")
    assert main(["cache", "pull", there, str(tmp_path / "third")]) == 1
    error = capsys.readouterr().err
    assert "1 damaged file not copied" in error and os.path.join("there", "v1") in error
    assert main(["cache", "pull", str(tmp_path / "none"), other]) == 1
    assert "there is no embedding store" in capsys.readouterr().err


def test_a_store_is_not_used_in_place_in_object_storage(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match=r"`cache` must be a local folder; got 's3://bucket/x'"):
        EmbeddingStore("s3://bucket/x")
    monkeypatch.setenv("TLFEATURES_CACHE", "s3://bucket/x")
    with pytest.raises(ValueError, match="`cache` must be a local folder; got 's3:/"):
        EmbeddingStore()
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    output = str(tmp_path / "x.npy")
    assert main(["embed", str(tmp_path), "--model", "tiny", "--cache", "s3://bucket/x", "-o", output]) == 2
    assert "--cache must be a local folder; got 's3://bucket/x'" in capsys.readouterr().err
