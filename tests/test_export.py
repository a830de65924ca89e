"""Export of models: what is refused, and the script with the preprocessing. No test here needs ONNX."""

from __future__ import annotations

import io
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageChops
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from tests.image_helpers import photo
from tlfeatures import CNNFeatures, FineTuneClassifier
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError, MissingDependencyError
from tlfeatures.export import export_onnx
from tlfeatures.export._script import make_script
from tlfeatures.heads import BlockScaler, MeanRBFKernel, make_head
from tlfeatures.images import Decoder, Images
from tlfeatures.saved_models import save_pipeline

X = np.zeros((4, 32, 32, 3), "uint8")
X[2:, 8:24, 8:24] = 255
Y = ["empty", "empty", "square", "square"]


def fit(*steps, **params):
    cnn = CNNFeatures("tiny", image_size=32, cache=None, **params)
    return make_pipeline(cnn, *(steps or [LogisticRegression()])).fit(X, Y)


@pytest.fixture(scope="module")
def pipeline():
    return fit()


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.tlf"
    save_pipeline(pipeline, path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit(views="flip"), r"`views='flip'` cannot be exported.*Fit it without `views`"),
        (
            lambda: fit(precision="bfloat16"),
            r"`precision='bfloat16'` cannot be exported.*`precision='float32'`",
        ),
        (
            lambda: fit(BlockScaler(), SVC(kernel=MeanRBFKernel((320,)))),
            r"SVC with the kernel MeanRBFKernel\(widths=\(320,\)\).*Heads that can be exported: logreg, linear_svm",
        ),
        (
            lambda: fit(make_head("knn").set_params(knn__n_neighbors=1)),
            r"KNeighborsClassifier, whose predictions differ.*Heads that can be exported: logreg, linear_svm",
        ),
        (
            lambda: fit(FunctionTransformer(np.sqrt), LogisticRegression()),
            r"FunctionTransformer, which runs the Python function.*Heads that can be exported",
        ),
    ],
)
def test_models_that_cannot_be_exported_are_refused_by_name(make, message, tmp_path):
    with pytest.raises(InvalidParameterError, match=message):
        export_onnx(make(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_test_time_augmentation_is_refused(tmp_path):
    model = FineTuneClassifier(
        "tiny", image_size=32, head_epochs=0, epochs=1, start="linear", validation_fraction=0, cache=None,
        random_state=0, augment={"flip": "horizontal"}, tta=2,
    ).fit(X, Y)  # fmt: skip
    with pytest.raises(InvalidParameterError, match=r"`tta=2` cannot be exported.*set_params\(tta=0\)"):
        export_onnx(model, tmp_path / "model.onnx")


def test_the_suffix_is_checked(pipeline, tmp_path):
    with pytest.raises(InvalidParameterError, match=r"`path` must end in \.onnx"):
        export_onnx(pipeline, "")
    with pytest.raises(InvalidParameterError, match=r"`path` must end in \.onnx; got .*model\.pb"):
        export_onnx(pipeline, tmp_path / "model.pb")


def test_the_folder_must_exist(pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="No such folder"):
        export_onnx(pipeline, tmp_path / "absent" / "model.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "model.py"])
def test_existing_files_are_kept(pipeline, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"overwrite=True.*{re.escape(name)}"):
        export_onnx(pipeline, tmp_path / "model.onnx")
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["model.onnx", "model.py"])
def test_folders_are_refused_before_the_model_is_converted(pipeline, tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"name a file.*{re.escape(name)}"):
        export_onnx(pipeline, tmp_path / "model.onnx", overwrite=True)


def test_missing_packages_are_named(pipeline, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"needs onnx, .*pip install 'tlfeatures\[onnx\]'"):
        export_onnx(pipeline, tmp_path / "model.onnx")


def run(capsys, *argv):
    return main(["export", *map(str, argv)]), *capsys.readouterr()


def test_the_command_names_missing_packages_before_it_loads_the_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = run(capsys, tmp_path / "absent.tlf", "-o", tmp_path / "model.onnx")
    assert code == 1
    assert "pip install 'tlfeatures[onnx]'" in err


@pytest.mark.parametrize("name", ["model.onnx", "model.py"])
def test_the_command_keeps_existing_files(saved, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    code, _, err = run(capsys, saved, "-o", tmp_path / "model.onnx")
    assert code == 2
    assert name in err
    assert "--force" in err
    assert (tmp_path / name).read_text() == "mine"


def test_the_command_checks_the_suffix(saved, tmp_path, capsys):
    code, _, err = run(capsys, saved, "-o", tmp_path / "model.pb")
    assert code == 2
    assert "must end in .onnx" in err


# -- the script


def make_loader(decoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    source, names = make_script(decoder, "model.py"), {"__name__": "model"}
    exec(compile(source, "model.py", "exec"), names)
    return names["load"]


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def rotated(orientation, size=(301, 200)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo(*size, seed=orientation), "JPEG", exif=exif, quality=90)


def make_files():
    image = photo(90, 61)
    alpha = image.convert("RGBA")
    alpha.putalpha(ImageChops.invert(image.convert("L")))
    return {
        "rgb.png": encode(image, "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "grey_alpha.png": encode(alpha.convert("LA"), "PNG"),
        "grey.png": encode(image.convert("L"), "PNG"),
        "palette.gif": encode(image.convert("P"), "GIF"),
        "transparent.png": encode(image.convert("P"), "PNG", transparency=3),
        "one_bit.png": encode(image.convert("1"), "PNG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "large.jpg": encode(photo(610, 400), "JPEG"),
        **{f"exif{i}.jpg": rotated(i) for i in range(1, 9)},
        "large_rotated.jpg": rotated(6, (800, 500)),
    }


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(
    ("size", "decode", "interpolation"),
    [((48, 40), "scaled", "bilinear"), ((44, 44), "scaled", "bicubic"), ((48, 40), "exact", "lanczos")],
)
def test_the_script_reads_images_as_the_pipeline_does(
    resize, size, decode, interpolation, tmp_path, monkeypatch
):
    decoder = Decoder(size, resize, interpolation, decode)
    load = make_loader(decoder, monkeypatch)
    for name, content in make_files().items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = Images.of([str(path)]).decode(0, decoder)[1]
        actual = load(path)
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, expected, err_msg=name)


def test_the_script_refuses_16_bit_images_with_the_fix(tmp_path, monkeypatch):
    Image.fromarray(np.arange(256, dtype="uint16").reshape(16, 16)).save(tmp_path / "deep.png")
    for options, fix in (({}, "divide the values by 257"), ({"max_value": 4080}, "divide the values by 16"),
                         ({"window": (40, 400)}, r"window \(40.0, 400.0\)")):  # fmt: skip
        with pytest.raises(ValueError, match=fix):
            make_loader(Decoder((8, 8), **options), monkeypatch)(tmp_path / "deep.png")


@pytest.mark.parametrize("name", ['a"""b.py', "back\\slash.py", "line\nend.py"])
def test_names_of_files_cannot_change_the_script(name):
    source = make_script(Decoder((8, 8)), name)
    assert name not in source
    compile(source, "model.py", "exec")
