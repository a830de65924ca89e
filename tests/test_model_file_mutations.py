"""Damaged and hostile model files raise SavedModelError; none runs code, hangs or uses much memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tlfeatures
from tests.model_file_mutations import check_mutations, read_members, sign, write_members
from tlfeatures import ConformalClassifier
from tlfeatures.errors import SavedModelError
from tlfeatures.heads import make_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of three heads."""
    folder = tmp_path_factory.mktemp("mutations")
    (folder / "work").mkdir()
    y = np.arange(36) % 3
    X = (np.random.default_rng(0).normal(size=(36, 8)) + y[:, None]).astype("float32")
    heads = {
        "svm": make_head("svm"),
        "knn": make_head("knn"),
        "sets": ConformalClassifier(LogisticRegression(), cv=2, error_rate=0.2),
    }
    for name, head in heads.items():
        tlfeatures.save(head.fit(X, np.array(["a", "b", "c"])[y]), folder / f"{name}.tlf")
    return folder


def test_mutated_files(folder):
    result = check_mutations(sorted(folder.glob("*.tlf")), folder / "work", 300, 0)
    assert result["outcomes"]["refused"] > 200


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_10_000_mutated_files_in_a_process_that_records_what_they_do(folder):
    done = subprocess.run(
        [sys.executable, "-m", "tests.model_file_mutations", str(folder), "10000"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert sum(result["outcomes"][name] for name in ("refused", "loaded")) == 10_000
    assert not result["events"]
    assert result["megabytes"] < 500


def test_sizes_are_checked_before_memory_is_allocated(folder, tmp_path):
    members = read_members((folder / "svm.tlf").read_bytes())
    path = tmp_path / "hostile.tlf"
    about = json.loads(members["about.json"])
    hostile = {
        "about.json is too large": write_members([("about.json", b'"' + b"x" * (17 << 20) + b'"')]),
        "about.json is too large ": write_members([("about.json", b"[" + b"{}," * 2_100_000 + b"{}]")]),
        "it has too many members": write_members([("about.json", b"{}")])[:-10]
        + b"\xff\xff\xff\xff"
        + b"\0" * 6,
        "compressed members are too large": write_members(
            [*members.items(), ("00099.npy", bytes(1 << 20))], zipfile.ZIP_DEFLATED
        ),
        "have another compression": write_members(list(members.items()), zipfile.ZIP_LZMA),
        "too many objects": sign(
            members | {"about.json": json.dumps(about | {"model": [_object()] * 6000}).encode()}
        ),
        "nested too deeply": sign(
            members | {"about.json": json.dumps(about | {"model": _nest(60)}).encode()}
        ),
    }
    for text, data in hostile.items():
        path.write_bytes(data)
        with pytest.raises(SavedModelError, match=text.strip()):
            tlfeatures.load(path)


def test_compressed_arrays_are_expanded_to_the_size_in_the_directory_only(folder, tmp_path):
    members = read_members((folder / "svm.tlf").read_bytes())
    path, small = tmp_path / "hostile.tlf", members["00000.npy"]
    path.write_bytes(write_members(list(members.items()), zipfile.ZIP_DEFLATED))
    tlfeatures.load(path)
    data = write_members(list((members | {"00000.npy": bytes(64 << 20)}).items()), zipfile.ZIP_DEFLATED)
    path.write_bytes(data.replace(struct.pack("<L", 64 << 20), struct.pack("<L", len(small))))
    tracemalloc.start()
    with pytest.raises(SavedModelError, match="damaged"):
        tlfeatures.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def _object():
    return {"object": "sklearn.svm.SVC", "params": {}, "state": {}}


def _nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_files_of_other_formats_with_exploits_are_refused(tmp_path):
    path = tmp_path / "model.tlf"
    schema = {  # of skops, whose loader called what such nodes name
        "__class__": "methodcaller", "__module__": "operator", "__loader__": "OperatorFuncNode",
        "attrs": {"__class__": "tuple", "__module__": "builtins", "content": ["system", "touch executed"]},
    }  # fmt: skip
    for members in (
        [("schema.json", json.dumps(schema).encode())],
        [("about.json", b'{"format": "tlfeatures.model/1"}'), ("schema.json", json.dumps(schema).encode())],
        [("config.json", b'{"class_name": "Lambda"}'), ("model.weights.h5", b"")],  # a .keras file
        [
            (
                "about.json",
                json.dumps({"format": "tlfeatures.model/1", "model": schema, "digests": []}).encode(),
            )
        ],
    ):
        path.write_bytes(write_members(members))
        with pytest.raises(SavedModelError):
            tlfeatures.load(path)
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")  # a pickle of protocol 0
    with pytest.raises(SavedModelError, match="Loading a pickle can run code"):
        tlfeatures.load(path)
