"""Sources: folders, splits, manifests and HDF5 arrays."""

import os
import pathlib
import pickle
import re
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import _safe_indexing

from tests.warning_helpers import of_test, warnings_as_errors
from tlfeatures.errors import MissingDependencyError, SourceError
from tlfeatures.images import Decoder, Images
from tlfeatures.sources import ArrayOnDisk, Source, read_items, read_source

SHARED = pathlib.Path(__file__).parents[1].parent / "shared" / "data"


def fill(root, *names):
    """Make files below ``root``; images may have any content, because they are not opened."""
    for name in names:
        path = pathlib.Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture(autouse=True)
def quiet():
    """Turn unexpected warnings into errors."""
    with warnings_as_errors():
        yield


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is absent")
    return path


# --- folders ---------------------------------------------------------------------------------------


def test_class_folders_are_labelled_by_the_first_level_in_natural_order(tmp_path):
    fill(tmp_path, "dog/10.jpg", "dog/9.jpg", "Cat/a/b/1.png", "Cat/2.png", "cat10/x.png", "cat2/y.png")
    source = read_source(tmp_path)
    assert source.kind == "class folders" and len(source) == 6
    assert source.names == [
        "Cat/2.png",
        "Cat/a/b/1.png",
        "cat2/y.png",
        "cat10/x.png",
        "dog/9.jpg",
        "dog/10.jpg",
    ]
    assert source.y.tolist() == ["Cat", "Cat", "cat2", "cat10", "dog", "dog"]
    assert source.images == [os.path.join(tmp_path, name) for name in source.names]
    assert source.groups is None and source.split is None and source.ignored == []


def test_all_images_and_only_images_are_listed(tmp_path):
    image_names = [
        "a.webp",
        "b.TIF",
        "c.JPEG",
        "d.JpG",
        "e.Bmp",
        "f.heic",
        "g.AVIF",
        "i.jfif",
        "2Q== (1).jpg",
        "n\nl.jpg",
    ]
    other_names = [
        "notes.txt",
        "Thumbs.db",
        ".DS_Store",
        "._a.jpg",
        ".hidden.jpg",
        "x.json",
        "noext",
        "desktop.ini",
    ]
    fill(tmp_path, *(f"k/{n}" for n in image_names + other_names), "k/.cache/z.jpg", "k2/empty.jpg")
    (tmp_path / "k2" / "empty.jpg").write_bytes(b"")  # an empty file with an image suffix is listed
    for i, fmt in enumerate(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000")):
        name = ("sniffed", "photo.jpg_large", "img.jpg?size=3", "s4", "s5", "s6", "s7")[i]
        Image.new("RGB", (4, 4)).save(tmp_path / "k" / name, fmt)
        image_names.append(name)
    with pytest.warns(
        UserWarning, match=r"3 file\(s\) in .* are not images and were ignored: .*1 without a suffix"
    ) as caught:
        source = read_source(tmp_path)
    assert len(of_test(caught)) == 1 and of_test(caught)[0].filename == __file__
    assert sorted(source.names) == sorted([f"k/{n}" for n in image_names] + ["k2/empty.jpg"])
    assert sorted(source.ignored) == sorted(f"k/{n}" for n in other_names)


def test_flat_folder_has_no_labels(tmp_path):
    fill(tmp_path, "b.jpg", "a.jpg", "notes.txt")
    with pytest.warns(UserWarning, match=r"1 file\(s\) .* ignored: 1 .txt, the first 'notes.txt'.$"):
        source = read_source(str(tmp_path))
    assert (source.kind, source.names, source.y) == ("flat folder", ["a.jpg", "b.jpg"], None)
    assert source.ignored == ["notes.txt"]


MEDICAL = {
    "a/1.nii.gz": "SimpleITK or nibabel",
    "a/1.nrrd": "SimpleITK or nibabel",
    "scan.MHA": "SimpleITK or nibabel",
    "slide.ndpi": "OpenSlide",
    "a/x.npy": "load them and pass them as X",
}


@pytest.mark.parametrize("name", MEDICAL)
def test_files_of_other_formats_are_counted_with_a_hint(tmp_path, name):
    fill(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.txt", "b/.hidden", name)
    with pytest.warns(UserWarning, match=r"2 file\(s\) in .* ignored: 1 \.[a-z.]+, 1 \.") as caught:
        source = read_source(tmp_path)
    assert MEDICAL[name] in str(of_test(caught)[0].message) and len(of_test(caught)) == 1
    assert source.y.tolist() == ["a", "b"] and set(source.ignored) == {"b/2.txt", "b/.hidden", name}
    fill(tmp_path / "only", name)
    with pytest.raises(SourceError, match=r"No images in .*\(1 other files: 1 \..*Expected") as caught:
        read_source(tmp_path / "only")
    assert MEDICAL[name] in str(caught.value)


def test_dicom_files_without_a_suffix_are_recognized(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/1.jpg")
    for i in range(3):
        (tmp_path / "a" / f"IM{i:04}").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert read_source(tmp_path).names == ["a/1.jpg", "a/IM0000", "a/IM0001", "a/IM0002", "b/1.jpg"]


def test_other_files_of_split_folders_are_counted_once(tmp_path):
    fill(
        tmp_path,
        "train/a/1.jpg",
        "train/b/1.jpg",
        "test/a/1.jpg",
        "test/b/1.jpg",
        "train/a/x.json",
        "labels.csv",
    )
    with pytest.warns(
        UserWarning, match=r"2 file\(s\) .* ignored: 1 .csv, 1 .json, the first 'labels.csv'"
    ) as caught:
        assert len(read_source(tmp_path).ignored) == 2
    assert len(of_test(caught)) == 1


def test_urls_of_unknown_kinds_raise(tmp_path):
    with pytest.raises(
        SourceError, match=r"'ftp://host/pets' is a URL of an unknown kind; expected s3://, gs://"
    ):
        read_source("ftp://host/pets")
    path = write(tmp_path / "m.csv", "path,label\nftp://x.org/1.jpg,a\nftp://x.org/2.jpg,b\n")
    with pytest.raises(
        SourceError, match=r"such as 'ftp://x.org/1.jpg'. It is a URL of an unknown kind; expected s3://"
    ):
        read_source(path)


def test_images_next_to_class_folders_are_left_out_with_a_warning(tmp_path):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "stray.jpg", "another.jpg")
    with pytest.warns(
        UserWarning, match=r"2 file\(s\).*not in a class folder.*first 'another.jpg'"
    ) as caught:
        source = read_source(tmp_path)
    assert of_test(caught)[0].filename == __file__
    assert source.names == ["cat/1.jpg", "dog/1.jpg"]
    everything = read_source(tmp_path, labels=False)
    assert everything.kind == "flat folder" and everything.y is None
    assert everything.names == ["another.jpg", "cat/1.jpg", "dog/1.jpg", "stray.jpg"]


def test_single_class_and_empty_class_folders_warn(tmp_path):
    fill(tmp_path, "cat/1.jpg")
    with pytest.warns(UserWarning, match=r"has a single class folder, 'cat'") as caught:
        assert read_source(tmp_path).y.tolist() == ["cat"]
    assert of_test(caught)[0].filename == __file__
    fill(tmp_path, "dog/1.jpg", "bird/.readme")
    with pytest.warns(UserWarning, match=r"No images in the folder.s. 'bird'") as caught:
        assert read_source(tmp_path).y.tolist() == ["cat", "dog"]
    assert of_test(caught)[0].filename == __file__


def test_symbolic_links_are_followed_once(tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", "1.jpg", "deep/2.jpg")
    root = fill(tmp_path / "root", "a/0.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "gone.jpg").symlink_to(root / "nothing")
    source = read_source(root)
    assert source.names == [
        "a/0.jpg",
        "a/gone.jpg",
        "b/1.jpg",
        "b/deep/2.jpg",
    ]  # a broken link with an image suffix is listed


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Training", "testing"), ("train", "valid", "test"), ("TRAIN", "Validation")]
)
@pytest.mark.parametrize("inner", ["cat/", ""])
def test_splits_are_never_classes(tmp_path, names, inner):
    for name in names:
        fill(tmp_path, f"{name}/{inner}1.jpg", *([f"{name}/dog/2.jpg"] if inner else [f"{name}/2.jpg"]))
    source = read_source(tmp_path)
    assert source.kind == "split folders" and len(source) == 2 * len(names)
    expected = [{"tr": "train", "va": "val", "te": "test"}[n.lower()[:2]] for n in names]
    assert list(dict.fromkeys(source.split.tolist())) == expected
    assert source.y is None if not inner else set(source.y.tolist()) == {"cat", "dog"}
    part = source.subset({"train": "Training", "val": "validation", "test": "TEST"}[expected[1]])
    assert len(part) == 2 and all(n.startswith(names[1] + "/") for n in part.names)
    assert [os.path.relpath(p, tmp_path) for p in part.images] == part.names


def test_test_split_without_labels(tmp_path):
    fill(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg")
    source = read_source(tmp_path)
    assert source.y.tolist() == ["cat", "dog", None]
    assert source.subset("train").y.dtype.kind == "U" and source.subset("test").y is None


@pytest.mark.parametrize("labels", [False, True])
def test_images_next_to_splits_are_left_out_with_a_warning(tmp_path, labels):
    fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "test/b/2.jpg", "stray.jpg")
    with pytest.warns(UserWarning, match=r"1 file\(s\) .* not in a split folder .*, the first 'stray.jpg'"):
        source = read_source(tmp_path, labels=labels)
    assert source.split.tolist() == ["train", "train", "test", "test"]


def test_other_folders_of_images_next_to_splits_raise(tmp_path):
    fill(
        tmp_path,
        "train/a/1.jpg",
        "train/b/1.jpg",
        "test/a/1.jpg",
        "test/b/1.jpg",
        "docs/.readme",
        ".log",
    )
    assert read_source(tmp_path).kind == "split folders"
    fill(tmp_path, "extra/1.jpg")
    with pytest.raises(
        SourceError, match=r"has the splits 'test', 'train' and other folders with images: 'extra'"
    ):
        read_source(tmp_path)


def test_two_splits_of_the_same_kind_raise(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg")
    with pytest.raises(SourceError, match=r"two of the same kind"):
        read_source(tmp_path)


def test_a_lone_train_folder_is_a_split_but_a_class_called_test_is_a_class(tmp_path):
    fill(tmp_path / "one", "train/a/1.jpg", "train/b/1.jpg")
    source = read_source(tmp_path / "one")
    assert source.kind == "split folders" and source.y.tolist() == ["a", "b"]
    fill(tmp_path / "two", "blood/1.jpg", "test/1.jpg")
    assert read_source(tmp_path / "two").y.tolist() == ["blood", "test"]


def test_error_of_subset_names_the_splits_that_exist(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/2.jpg")
    with pytest.raises(SourceError, match=r"No split 'val'. Splits: 'train', 'test'"):
        read_source(tmp_path).subset("val")
    with pytest.raises(SourceError, match=r"these images have no splits"):
        read_source(tmp_path / "train").subset("train")


def test_folders_without_images_raise(tmp_path):
    with pytest.raises(SourceError, match=r"No images in .*\(0 other files\)"):
        read_source(tmp_path)
    fill(tmp_path, "a/x.txt", "b.pdf")
    with pytest.raises(SourceError, match=r"\(2 other files: 1 .pdf, 1 .txt\). Expected image files"):
        read_source(tmp_path)


def test_missing_sources_suggest_similar_names(tmp_path):
    fill(tmp_path, "photos/1.jpg")
    with pytest.raises(SourceError, match=r"No such file or folder: .*Did you mean 'photos'"):
        read_source(tmp_path / "photso")
    with pytest.raises(SourceError, match=r"target='label' names a column.*is a folder. Leave it out"):
        read_source(tmp_path / "photos", target="label")


def test_single_image_file_is_a_source(tmp_path):
    fill(tmp_path, "a.JPG", "notes.md")
    source = read_source(tmp_path / "a.JPG")
    assert (source.kind, source.images, source.names, source.y) == (
        "file",
        [str(tmp_path / "a.JPG")],
        ["a.JPG"],
        None,
    )
    with pytest.raises(SourceError, match=r"neither an image nor a manifest"):
        read_source(tmp_path / "notes.md")


def test_unusual_names_and_names_that_are_not_utf_8(tmp_path, not_utf_8):
    (tmp_path / f"k{not_utf_8}").mkdir()
    (tmp_path / f"k{not_utf_8}" / f"{not_utf_8}.jpg").touch()
    fill(tmp_path, 'it\'s "q" ☃/a b.jpg')
    source = read_source(tmp_path)
    assert len(source) == 2 and all(map(os.path.exists, source.images))


def test_folders_of_real_data_sets():
    pets = read_source(shared("pets"))
    assert {k: pets.y.tolist().count(k) for k in set(pets.y)} == {"cats": 106, "dogs": 35, "horses": 56}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared("pets").parent)
        assert read_source("pets").images[0] == os.path.join("pets", pets.names[0])
    with pytest.warns(
        UserWarning, match=r"1 .csv, the first 'signs.csv'. A manifest is read when it is passed"
    ):
        signs = read_source(shared("signs"))
    assert signs.kind == "split folders" and signs.y is None
    assert len(signs.subset("train")) == 1080 and len(signs.subset("test")) == 120
    assert read_source(shared("signs") / "train").kind == "flat folder"


# --- manifests -------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    return fill(tmp_path, "img/1.jpg", "img/2.jpg", "img/3.jpg")


def test_manifest_of_a_real_data_set():
    source = read_source(shared("signs") / "signs.csv", target="label")
    assert source.kind == "manifest" and len(source) == 1200
    assert source.y.dtype == np.int64 and set(source.y.tolist()) == set(range(6))
    test = source.subset("test")
    assert len(test) == 120 and all(name.startswith("test/") for name in test.names)
    assert [int(pathlib.Path(name).name[0]) for name in test.names] == test.y.tolist()
    assert all(map(os.path.exists, test.images))


@pytest.mark.parametrize(
    "delimiter, suffix",
    [(",", "csv"), (";", "csv"), ("\t", "csv"), ("|", "csv"), ("\t", "tsv"), (",", "txt")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiters_encodings_and_line_ends(images, delimiter, suffix, encoding, newline):
    rows = [("path", "label", "fold"), ("img/1.jpg", "chât", "1"), ("img/2.jpg", "dog", "2"), ("", "", "")]
    path = write(images / f"m.{suffix}", newline.join(delimiter.join(r) for r in rows), encoding)
    source = read_source(path, groups="fold")
    assert source.names == ["img/1.jpg", "img/2.jpg"] and source.y.tolist() == ["chât", "dog"]
    assert source.groups.tolist() == [1, 2] and source.split is None
    assert source.images == [str(images / "img/1.jpg"), str(images / "img/2.jpg")]


def test_quoted_fields_absolute_paths_and_a_missing_file(images):
    fill(images, 'a, "b"\n.jpg')
    text = f'Label,Image\n1,"a, ""b""\n.jpg"\n2,"{images}/img/1.jpg"\n3,gone.jpg\n'
    source = read_source(write(images / "m.csv", text))
    assert source.names == ['a, "b"\n.jpg', f"{images}/img/1.jpg", "gone.jpg"]
    assert list(map(os.path.exists, source.images)) == [
        True,
        True,
        False,
    ]  # the error for it is raised when it is decoded
    assert source.y.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "values, expected",
    [
        (["0", "1"], np.array([0, 1])),
        (["00", "01"], np.array([0, 1])),
        (["1.5", "1.50"], np.array([1.5, 1.5])),
        (["1.5", "2"], np.array([1.5, 2.0])),
        (["-1e3", ".5"], np.array([-1000.0, 0.5])),
        (["1.0", "2"], np.array([1, 2])),
        (["1.0", "1e30"], np.array([1.0, 1e30])),
        (["1_000", "2"], np.array(["1_000", "2"])),
        (["a", "1"], np.array(["a", "1"])),
        (["None", "NA"], None),
        (["none", "cat"], np.array(["none", "cat"])),
        ([" cat", "cat "], np.array(["cat", "cat"])),
        (["9" * 30, "1"], np.array(["9" * 30, "1"])),
        (["True", "False"], np.array(["True", "False"])),
    ],
)
def test_types_of_labels(images, values, expected):
    lines = "".join(f"img/{i + 1}.jpg,{v}\n" for i, v in enumerate(values))
    source = read_source(write(images / "m.csv", "path,label\n" + lines))
    if expected is None:
        expected = np.array(values)  # if no label is a number, such words are classes
    assert source.y.dtype.kind == expected.dtype.kind
    np.testing.assert_array_equal(source.y, expected)


@pytest.mark.parametrize("column", ["label", "patient"])
def test_identifiers_that_are_equal_as_numbers_stay_different(images, column):
    path = write(images / "m.csv", f"path,{column}\nimg/1.jpg,1\nimg/2.jpg,01\nimg/3.jpg,2\n")
    source = read_source(path, groups="patient" if column == "patient" else None)
    values = source.groups if column == "patient" else source.y
    assert values.tolist() == ["1", "01", "2"]


@pytest.mark.parametrize(
    "groups, expected",
    [
        (["1.10", "1.1"], ["1.10", "1.1"]),
        (["1e2", "100"], ["1e2", "100"]),
        (["007", "8"], ["007", "8"]),
        (["10", "2"], [10, 2]),
    ],
)
def test_groups_of_a_text_manifest_are_not_merged(images, groups, expected):
    lines = "".join(f"img/{i + 1}.jpg,{group}\n" for i, group in enumerate(groups))
    source = read_source(write(images / "m.csv", "path,patient\n" + lines), groups="patient")
    assert source.groups.tolist() == expected


def test_missing_groups_among_numbers_are_counted(images):
    path = write(images / "m.csv", "path,patient\nimg/1.jpg,01\nimg/2.jpg,NA\n")
    with pytest.raises(SourceError, match=r"1 of 2 rows .* no value in column 'patient': row 3"):
        read_source(path, groups="patient")


def test_whole_numbers_of_a_parquet_manifest_are_integers(images):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"path": ["img/1.jpg", "img/2.jpg"], "label": [1.0, 2.0], "patient": [7.0, 7.5]})
    table.to_parquet(images / "m.parquet")
    source = read_source(images / "m.parquet", groups="patient")
    assert source.y.dtype == np.int64 and source.groups.tolist() == [7.0, 7.5]


@pytest.mark.parametrize("gap", ["", "nan", "NA", "None"])
def test_missing_labels_are_counted(images, gap):
    path = write(images / "m.csv", f"path,label\nimg/1.jpg,1\nimg/2.jpg,{gap}\nimg/3.jpg,{gap}\n")
    with pytest.raises(
        SourceError, match=r"2 of 3 rows .* have no value in column 'label': rows 3, 4 .the header is row 1"
    ):
        read_source(path)
    assert read_source(path, labels=False).y is None
    path = write(images / "n.csv", "path,label\nimg/1.jpg,cat\nimg/2.jpg,\n")
    with pytest.raises(SourceError, match=r"1 of 2 rows .*'label': row 3 "):
        read_source(path)
    path = write(images / "o.csv", "path,label\nimg/1.jpg,cat\n,dog\n")
    with pytest.raises(SourceError, match=r"no value in column 'path': row 3 "):
        read_source(path)


def test_columns_can_be_chosen_and_missing_columns_raise(images):
    path = write(images / "m.csv", "pic,clas,patient,part\nimg/1.jpg,a,p1,train\nimg/2.jpg,b,p2,Testing\n")
    with pytest.raises(
        SourceError, match=r"No column for the paths of the images, such as 'path'.*Columns: 'pic', 'clas'"
    ):
        read_source(path)
    with pytest.raises(SourceError, match=r"No column 'class' .labels. .*Did you mean 'clas'"):
        read_source(path, path_column="pic", target="class")
    source = read_source(path, path_column="pic", target="clas", groups="patient", split="part")
    assert source.y.tolist() == ["a", "b"] and source.groups.tolist() == ["p1", "p2"]
    assert source.split.tolist() == ["train", "test"]
    assert read_source(path, path_column="pic").y is None


def test_split_column_is_detected(images):
    path = write(images / "m.csv", "file,Split\nimg/1.jpg,training\nimg/2.jpg,valid\nimg/3.jpg,TEST\n")
    source = read_source(path)
    assert source.split.tolist() == ["train", "val", "test"] and source.subset("validation").names == [
        "img/2.jpg"
    ]


def test_invalid_manifests_raise(images):
    for text, message in {
        "": "has no rows",
        "path,label\n": "has no rows",
        "path,label\n\n,\n": "has no rows",
        "path,label,label\nimg/1.jpg,1,2\n": "'label' appears more than once",
        "path,label\nimg/1.jpg,1\nimg/2,3.jpg,2\n": "Row 3 .* has 3 fields; the header, row 1, has 2.*quoted",
        "path\nnowhere/1.jpg\nnowhere/2.jpg\n": "None of the 2 files in column 'path'.*relative to the manifest",
        "img/1.jpg,0\nimg/2.jpg,1\n": "Columns: 'img/1.jpg', '0'",
    }.items():
        with pytest.raises(SourceError, match=message):
            read_source(write(images / "m.csv", text))
    for encoding in ("utf-16", "latin-1"):
        with pytest.raises(SourceError, match=r"not UTF-8 text.*save it as UTF-8"):
            read_source(write(images / "m.csv", "path,label\nimg/1.jpg,é\n", encoding))
    (images / "m.csv").write_bytes(b"path,label\nimg/1.jpg,\0\n" + bytes(range(128, 256)))
    with pytest.raises(SourceError):
        read_source(images / "m.csv")


def test_trailing_delimiters_are_ignored(images):
    for header in ("path,label,", "path,label"):
        source = read_source(write(images / "m.csv", f"{header}\nimg/1.jpg,1,\nimg/2.jpg,2\n"))
        assert source.y.tolist() == [1, 2] and source.columns == ["path", "label"]


def test_errors_count_rows_from_the_header(images):
    text = 'path,label\n"img/1.jpg",1\n\nimg/2.jpg,2\n,\nimg/3.jpg,\n'
    with pytest.raises(SourceError, match=r"1 of 3 rows .*'label': row 6 \(the header is row 1\)"):
        read_source(write(images / "m.csv", text))
    with pytest.raises(SourceError, match=r"Row 5 .* has 4 fields; the header, row 1, has 2"):
        read_source(write(images / "m.csv", "path,label\nimg/1.jpg,1\n\nimg/2.jpg,2\nimg/3,4,5.jpg,2\n"))


def test_parquet_with_its_paths_as_index(images):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"path": ["img/1.jpg", "img/2.jpg"], "label": ["a", "b"]})
    table.set_index("path").to_parquet(images / "m.parquet")
    assert read_source(images / "m.parquet").names == ["img/1.jpg", "img/2.jpg"]


def test_parquet_manifests(images, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = {
        "path": ["img/1.jpg", "img/2.jpg"],
        "label": [3, 4],
        "name": ["a", None],
        "bad": [1.0, float("nan")],
    }
    pq.write_table(pa.table(table), images / "m.parquet")
    source = read_source(images / "m.parquet")
    assert source.kind == "manifest" and source.y.dtype == np.int64 and source.y.tolist() == [3, 4]
    for column in ("name", "bad"):
        with pytest.raises(
            SourceError, match=f"1 of 2 rows .* no value in column '{column}': row 1 .counted from 0"
        ):
            read_source(images / "m.parquet", target=column)
    with pytest.raises(SourceError, match=r"Column 'label' .* has values of type int; expected text"):
        read_source(images / "m.parquet", path_column="label")
    (images / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"Cannot read .* as Parquet"):
        read_source(images / "bad.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"pip install pyarrow"):
        read_source(images / "m.parquet")


def test_rows_are_taken_by_position_or_mask():
    source = Source(list("abc"), np.arange(3), None, None, list("abc"), "file")
    assert source.take([2, 0, 2]).images == ["c", "a", "c"]
    assert source.take(source.y > 0).y.tolist() == [1, 2]
    assert len(source.take([])) == 0
    with pytest.raises(IndexError):
        source.take([True, False])


# --- HDF5 ------------------------------------------------------------------------------------------


@pytest.fixture
def h5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "signs.h5"
    X = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    with h5py.File(path, "w") as f:
        f["train_set_x"], f["train_set_y"] = X, np.arange(6)[None]  # (1, n), as the tutorials store it
        f["list_classes"] = np.arange(6)
        f["words"] = [b"a", b"b", b"c", b"a", b"b", b"c"]
        f["part"] = [b"train"] * 4 + [b"test"] * 2
        f["gaps"] = [0.0, 1.0, np.nan, 3.0, 4.0, np.nan]
    return path, X


def test_hdf5_array_with_its_labels(h5):
    path, X = h5
    for text in (f"{path}::train_set_x", f"{path}::/train_set_x", str(path)):
        source = read_source(text)
        assert source.kind == "hdf5" and len(source) == 6 and source.names[4] == "train_set_x[4]"
        assert source.y.tolist() == [0, 1, 2, 3, 4, 5] and source.y.dtype == np.int64
        images = Images.of(source.images)
        np.testing.assert_array_equal(images.decode(4, Decoder((8, 8)))[1], X[4])
    assert read_source(path, labels=False).y is None
    source = read_source(path, target="words", groups="train_set_y", split="part")
    assert source.y.tolist() == list("abcabc") and source.groups.tolist() == list(range(6))
    test = source.subset("test")
    assert test.names == ["train_set_x[4]", "train_set_x[5]"] and test.y.tolist() == ["b", "c"]
    np.testing.assert_array_equal(Images.of(test.images).decode(1, Decoder((8, 8)))[1], X[5])
    np.testing.assert_array_equal(Images.of(test.take([1]).images).decode(0, Decoder((8, 8)))[1], X[5])


def test_hdf5_arrays_are_lazy_and_pickle_without_their_data(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as f:  # 3 TB, none of which is written
        f.create_dataset("x", (1_000_000, 1024, 1024, 3), "u1", chunks=(1, 1024, 1024, 3))
    source = read_source(path)
    assert len(source) == 1_000_000 and source.images.shape == (1_000_000, 1024, 1024, 3)
    small = source.take([5, 999_999])
    pickled = pickle.dumps(small.images)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert isinstance(again, ArrayOnDisk) and len(again) == 2 and again[1].max() == 0


def test_hdf5_file_with_several_arrays_needs_the_name_of_one(h5):
    h5py = pytest.importorskip("h5py")
    path, X = h5
    with h5py.File(path, "a") as f:
        f["test_set_x"] = X[:2]
        f["deep/images"], f["deep/labels"] = X[:2], [7, 8]
    with pytest.raises(
        SourceError, match=r"needs the name of an image array.*'.*::dataset'.*'test_set_x' \(2, 8, 8, 3\)"
    ):
        read_source(path)
    assert read_source(f"{path}::test_set_x").y is None
    assert read_source(f"{path}::deep/images").y.tolist() == [7, 8]


def test_invalid_hdf5_sources_raise(h5, tmp_path):
    path, _ = h5
    for dataset, options, message in (
        ("train_set", {}, "No array 'train_set'.*Did you mean .*'train_set_x'.*Image arrays"),
        ("words", {}, r"'words' .* has shape \(6,\), which is not that of images"),
        ("train_set_x", {"target": "lables"}, "No dataset 'lables'.*Datasets: "),
        (
            "train_set_x",
            {"target": "train_set_x"},
            r"has shape \(6, 8, 8, 3\); expected one value for each image",
        ),
        ("train_set_x", {"target": "gaps"}, "2 values of 'gaps' .* are missing, the first in row 2"),
        ("train_set_x", {"path_column": "p"}, "`path_column` is for manifests"),
    ):
        with pytest.raises(SourceError, match=message):
            read_source(f"{path}::{dataset}", **options)
    with pytest.raises(SourceError, match=r"No such HDF5 file: .*Did you mean 'signs.h5'"):
        read_source(f"{tmp_path}/sings.h5::x")
    (tmp_path / "no.h5").write_bytes(b"not HDF5")
    with pytest.raises(SourceError, match=r"Cannot read .* as HDF5"):
        read_source(tmp_path / "no.h5")


def test_a_damaged_hdf5_file_raises_a_source_error(h5):
    path, _ = h5
    content, rng = path.read_bytes(), np.random.default_rng(0)
    n_errors = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.integers(1500)] = rng.integers(256)  # in the metadata
        path.write_bytes(damaged)
        try:
            read_source(f"{path}::train_set_x")
        except SourceError:
            n_errors += 1
    assert n_errors


def test_text_of_an_hdf5_file_that_is_not_utf8_raises_a_source_error(h5):
    h5py = pytest.importorskip("h5py")
    path, _ = h5
    with h5py.File(path, "a") as f:
        f["latin"] = np.array(["Z\xfcrich".encode("latin-1")] * 6)
    with pytest.raises(SourceError, match=r"'latin' in .* has the value b'Z\\xfcrich', which is not UTF-8"):
        read_source(f"{path}::train_set_x", target="latin")


def test_listing_folders_imports_neither_pandas_nor_keras(images):
    import subprocess

    code = f"""if True:
        import sys
        from tlfeatures.sources import read_source
        read_source({str(images / "img")!r})
        print(sorted({{"keras", "tensorflow", "h5py", "pandas", "sklearn"}} & set(sys.modules)))
    """
    root = pathlib.Path(__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert process.stdout.strip() == "[]", process.stderr


def test_hdf5_arrays_are_indexed_by_scikit_learn(h5):
    images = read_source(h5[0]).images
    part = _safe_indexing(images, np.array([4, 1]))
    assert isinstance(part, ArrayOnDisk) and len(part) == 2
    np.testing.assert_array_equal(part[0], images[4])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "manifest",
            "This manifest has no labels. Name their column with `target`. Columns: 'path', 'kind'.",
        ),
        ("hdf5", "This array has no labels. Name their dataset with `target`. Datasets: 'path', 'kind'."),
        (
            "flat folder",
            "This flat folder has no labels. Put the images of each class into a folder of its own",
        ),
    ],
)
def test_sources_without_labels_say_where_labels_are_expected(kind, text):
    source = Source(["a.jpg"], None, None, None, ["a.jpg"], kind, columns=["path", "kind"])
    with pytest.raises(SourceError, match=re.escape(text)):
        source.get_labels()
    with pytest.raises(SourceError, match=r"1 of 2 images have no label, such as 'b\.jpg'"):
        Source(
            ["a.jpg", "b.jpg"], np.array(["x", None], object), None, None, ["a.jpg", "b.jpg"], kind
        ).get_labels()


def test_items_are_listed_in_order_and_consecutive_paths_are_one_source(h5, tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.jpg")]
    for path in paths:
        path.write_bytes(b"")
    (tmp_path / "d.txt").write_text("not an image")
    with pytest.warns(UserWarning, match=r"1 of 4 matches of .*\[a-d\].* are not images and are left out"):
        sources = read_items([paths[2], f"{tmp_path}/[a-d].*", f"{h5[0]}::train_set_x", paths[0]])
    assert [len(source) for source in sources] == [4, 6, 1]
    assert sources[0].paths == [str(paths[i]) for i in (2, 0, 1, 2)]
    assert sources[1].y is None and sources[1].paths[0] == "train_set_x[0]"
    with pytest.raises(SourceError, match="No file matches the pattern"):
        read_items([f"{tmp_path}/*.gif"])
