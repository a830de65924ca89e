"""Mutations of a model file: damage of its bytes, of its zip structure, of its JSON object and of its arrays."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import tlfeatures
from tlfeatures._archive import _hash
from tlfeatures.errors import SavedModelError
from tlfeatures.model_files import read_card

HOSTILE = [
    None, True, 0, -1, 10**30, 1e308, "", "../../etc/passwd", "predict", "\0", [], {}, [[[]]] * 50, {"array": 0},
    {"array": -1}, {"array": 10**12}, {"array": [0]}, {"object": "os.system", "params": {}, "state": {}},
    {"object": "sklearn.svm.SVC", "params": {}, "state": {"support_": {"array": 1}}},
    {"object": "sklearn.svm.SVC", "params": {"kernel": "rbf"}, "state": {"shape_fit_": {"tuple": [10**9, 10**9]}}},
    {"object": "sklearn.neighbors.KNeighborsClassifier", "params": {},
     "state": {"_fit_X": {"array": 0}, "_y": {"array": 0}}},
    {"function": "builtins.eval"}, {"function": "numpy.exp"}, {"dtype": "O"}, {"dtype": "<U999999999"},
    {"scalar": ["<U9999", "x"]},
    {"objects": [[10**9], []]}, {"objects": [[2, 2], [1, 2, 3]]}, {"float": "nan"}, {"tuple": 3}, {"dict": [[[], 1]]},
    {"dict": [[{"dict": []}, 1]]}, {"lambda": "x: x"}, "x" * 10**5, list(range(10**4)),
]  # fmt: skip
HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': [('a', '<f8', (1000000000,))], 'fortran_order': False, 'shape': (0,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f8', 'fortran_order': 1, 'shape': 3, }",
    "__import__('os').system('false')",
    "[" * 5000,
    "",
]


def read_members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    """Write a zip file whose arrays are compressed by ``kind``."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of members with the same name
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_STORED if name == "about.json" else kind
            archive.writestr(info, content)
    return file.getvalue()


def sign(members: dict[str, bytes]) -> bytes:
    """Write members with the digests that belong to the arrays, as an attacker would."""
    about = json.loads(members["about.json"])
    about["digests"] = [_hash(members[name]).hexdigest() for name in sorted(members) if name.endswith(".npy")]
    return write_members(list((members | {"about.json": json.dumps(about).encode()}).items()))


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 200))
    new = [rng.bytes(length), bytes(length), b"", data[:length], b"\xff" * length][rng.integers(5)]
    return data[:start] + new + data[start + length :]


def flip_in_directory(data: bytes, rng: np.random.Generator) -> bytes:
    """Change fields of the zip directory, such as sizes, flags, methods, names and offsets."""
    start = data.rindex(b"PK\1\2") if rng.integers(2) else data.index(b"PK\1\2")
    changed = bytearray(data)
    where = start + int(rng.integers(len(data) - start))
    value = [0, 1, 0xFF, 0x7F, 8, 99][rng.integers(6)]
    for i in range(where, min(len(data), where + int(rng.integers(1, 5)))):
        changed[i] = value
    return bytes(changed)


def change_members(data: bytes, rng: np.random.Generator) -> bytes:
    items = list(read_members(data).items())
    i, j = (int(k) for k in rng.integers(1, len(items), 2))
    name = [
        "../evil.npy",
        "/etc/passwd",
        "about.json",
        "A/00001.npy",
        "",
        "00001.npy",
        "x" * 60_000,
        "schema.json",
    ][rng.integers(8)]
    choice = rng.integers(8)
    if choice == 0:
        swapped = {items[i][0]: items[j][1], items[j][0]: items[i][1]}
        return write_members([(key, swapped.get(key, value)) for key, value in items])
    if choice == 1:
        return write_members([*items, (name, items[j][1])])
    if choice == 2:
        return write_members([(name if k == i else key, value) for k, (key, value) in enumerate(items)])
    if choice == 3:
        return write_members(items[:i] + items[i + 1 :])
    if choice == 4:
        return write_members(
            [(key, bytes(2_000_000) if k == i else value) for k, (key, value) in enumerate(items)],
            zipfile.ZIP_DEFLATED,
        )
    if choice == 5:
        return write_members(items[::-1])
    if choice == 6:  # the encrypted flag
        changed = bytearray(write_members(items))
        where = changed.rindex(b"PK\1\2")
        changed[where + 8] |= 1
        return bytes(changed)
    start = b'{"format": "tlfeatures.model/1"'
    deep = [
        *(
            b"[" * 200_000,
            start + b', "model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            start + b',"a":[]' * 10**4 + b"}",
        ),
        *(b"{}", b"[]", b"1" * 10**6, b"\xff\xfe\x00\xd8"),
    ]
    return write_members([("about.json", deep[rng.integers(len(deep))]), *items[1:]])


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace or remove a random part of the JSON object, which is otherwise valid."""
    members = read_members(data)
    about = json.loads(members["about.json"])
    node = about[["model", "model", "model", "self_test", "versions", "card"][rng.integers(6)]]
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = keys[rng.integers(len(keys))]
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.85:
            node = node[key]
        elif rng.random() < 0.2:
            del node[key]
            break
        elif isinstance(node, dict) and rng.random() < 0.2:
            node[str(HOSTILE[rng.integers(len(HOSTILE))])[:200]] = node.pop(key)
            break
        else:
            node[key] = copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
            break
    return sign(members | {"about.json": json.dumps(about).encode()})


def change_array(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace an array by one of another shape, dtype or header, with the digest that belongs to it."""
    members = read_members(data)
    name = list(members)[rng.integers(1, len(members))]
    array = np.load(io.BytesIO(members[name]))
    choice = rng.integers(6)
    if choice == 0:
        text = HEADERS[rng.integers(len(HEADERS))].encode()
        content = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(rng.integers(64))
        return sign(members | {name: content})
    is_text = array.dtype.kind == "U"
    dtype = ["<U3", "<f4", "<i8", "|i1", "<c8"][0 if is_text else rng.integers(5)]
    value = [np.nan, np.inf, -1, 2**31 - 1][rng.integers(2 * (array.dtype.kind != "f"), 4)]
    changed = [
        array.ravel()[: rng.integers(array.size + 1)],
        array[None],
        array.astype(dtype),
        array.T,
        array[::-1] if is_text else np.full_like(array, 1 if array.dtype.kind == "u" else value),
    ][choice - 1]
    file = io.BytesIO()
    np.save(file, changed, allow_pickle=False)
    return sign(members | {name: file.getvalue()})


BYTES: list[Callable[[bytes, np.random.Generator], bytes]] = [flip, truncate, overwrite, flip_in_directory]
STRUCTURE: list[Callable[[bytes, np.random.Generator], bytes]] = [change_members, change_json, change_array]


def check_mutations(paths: list[Path], folder: Path, n: int, seed: int) -> dict[str, Any]:
    """Load ``n`` mutated files; any exception but SavedModelError is raised, and so are wrong predictions."""
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(1).normal(size=(3, 8)).astype("float32")
    originals = [(path.read_bytes(), tlfeatures.load(path).predict(rows)) for path in paths]
    outcomes: Counter[str] = Counter()
    slowest, target = 0.0, folder / "mutated.tlf"
    for i in range(n):
        data, expected = originals[i % len(originals)]
        mutate = (BYTES + STRUCTURE)[int(rng.integers(len(BYTES + STRUCTURE)))]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            target.write_bytes(mutate(data, rng))
            start = perf_counter()
            with contextlib.suppress(SavedModelError):
                read_card(target)
            try:
                model = tlfeatures.load(target)
                outcomes["loaded"] += 1
            except SavedModelError:
                model = None
                outcomes["refused"] += 1
            slowest = max(slowest, perf_counter() - start)
            if model is not None and mutate in BYTES:
                np.testing.assert_array_equal(model.predict(rows), expected)
            elif model is not None and hasattr(model, "predict"):
                try:
                    model.predict(rows)
                except Exception:  # a forged model may fail, but must not crash the process
                    outcomes["failed to predict"] += 1
    return {"outcomes": dict(outcomes), "slowest": slowest}


def main(folder: str, n: str) -> None:
    """Check mutations of the files in a folder, and print the outcomes and the memory that was used."""
    import resource

    paths = sorted(Path(folder).glob("*.tlf"))
    check_mutations(paths, Path(folder, "work"), 50, 1)  # imports all modules
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forbidden = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class",
                 "socket.connect", "os.remove", "os.rename", "os.mkdir", "ctypes.dlopen", "shutil.rmtree"}  # fmt: skip
    events: Counter[str] = Counter()

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in forbidden or (
            event == "open" and args[1] not in ("r", "rb") and "mutated.tlf" not in str(args[0])
        ):
            events[f"{event} {args[:1]}"] += 1

    sys.addaudithook(audit)
    result = check_mutations(paths, Path(folder, "work"), int(n), 2)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**result, "megabytes": (after - before) / 1024, "events": events}))


if __name__ == "__main__":
    main(*sys.argv[1:])
