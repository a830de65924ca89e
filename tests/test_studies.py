"""`tlfeatures.studies`: options, tables, figures and plain Keras networks that the studies share."""

from __future__ import annotations

import json

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tlfeatures import CNNFeatures
from tlfeatures.errors import UnknownNameError, WeightsError
from tlfeatures.sources import read_source
from tlfeatures.studies import (
    ResultTable,
    Study,
    describe_network,
    draw_confusion,
    draw_predictions,
    load_keras_network,
    load_pixels,
)


def make_study():
    return Study("example", "An example.", tutorial_network="vgg19", data="data/example")


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """Hide pretrained weights."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


def test_the_network_that_stands_in_is_named(no_weights):
    text = describe_network("MobileNet_0.75", "VGG19")
    assert text == "mobilenet_0.75 stands in for vgg19, whose weights are not on this machine"
    assert describe_network("tiny", "tiny") == "tiny, the network of the tutorial"
    assert describe_network("tiny", "vgg19", None).startswith(
        "tiny, with random weights, stands in for vgg19"
    )
    with pytest.raises(UnknownNameError, match="'mobilnet'"):
        describe_network("mobilnet", "vgg19")


def test_the_network_of_the_tutorial_is_proposed_if_its_weights_are_here():
    text = describe_network("mobilenet_0.75", "tiny")  # its weights are in the package
    assert text == "mobilenet_0.75 stands in for tiny (`--model tiny` uses the tutorial's network)"


def test_a_study_writes_rows_and_figures(tmp_path, capsys):
    study = make_study()

    def repeat(study):
        with study.measure("a constant", kind="baseline") as row:
            row["accuracy"] = np.float64(0.5)
        with study.measure("another"):
            pass
        study.save(draw_confusion(np.array(["a", "b"]), np.array(["a", "a"])), "confusion.png")

    assert study.run(repeat, ["--model", "tiny", "--out", str(tmp_path / "new" / "out")]) == 0
    captured = capsys.readouterr()
    assert "accuracy 0.5000" in captured.err
    lines = captured.out.splitlines()
    assert lines[0] == "Network: tiny stands in for vgg19, whose weights are not on this machine"
    assert lines[-2] == lines[0]
    assert any(line.split()[:4] == ["a", "constant", "baseline", "0.5000"] for line in lines)
    results = json.loads((tmp_path / "new" / "out" / "results.json").read_text())
    assert results["network"] in lines[0] and results["figures"] == ["confusion.png"]
    assert [row["recipe"] for row in results["rows"]] == ["a constant", "another"]
    assert results["rows"][0]["accuracy"] == 0.5 and results["rows"][0]["seconds"] >= 0
    assert results["options"]["seed"] == 0 and results["complete"]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.h5"), 1, "No such file or directory: 'x.h5'"),
        (WeightsError("no weights\non two lines"), 1, "no weights on two lines"),
        (ValueError("`cv` must be at least 2; got 1."), 2, "must be at least 2"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_of_a_study_are_one_line_and_an_exit_code(tmp_path, capsys, error, code, text):
    def repeat(study):
        raise error

    assert make_study().run(repeat, ["--model", "tiny", "--out", str(tmp_path)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("`cv` must be at least 2."), 2), (KeyboardInterrupt(), 130)]
)
def test_rows_measured_before_an_error_are_kept(tmp_path, capsys, error, code):
    def repeat(study):
        with study.measure("finished") as row:
            row["accuracy"] = 0.5
        with study.measure("interrupted"):
            raise error

    assert make_study().run(repeat, ["--model", "tiny", "--out", str(tmp_path)]) == code
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"] and [row["recipe"] for row in results["rows"]] == ["finished"]
    assert any(line.split()[:2] == ["finished", "0.5000"] for line in capsys.readouterr().out.splitlines())


def test_a_file_has_no_recipe_of_keras_alone():
    with pytest.raises(
        ValueError, match=r"`model` must be the name of a network; got the file 'mine\.keras'"
    ):
        load_keras_network("mine.keras")


def test_an_unknown_network_and_an_unknown_option_are_rejected(tmp_path, capsys):
    assert make_study().run(lambda study: None, ["--model", "tini", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'tiny'?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        make_study().run(lambda study: None, ["--modle", "tiny"])


def test_options_of_the_command_line_reach_the_estimators(tmp_path):
    def repeat(study):
        cnn = study.features(pooling="max")
        assert cnn.get_params()["model"] == "tiny" and cnn.weights is None and cnn.pooling == "max"
        assert cnn.image_size == 40 and cnn.cache == str(tmp_path / "store")
        assert study.choose(20, quick=2) == 2

    argv = ["--model", "tiny", "--weights", "random", "--image-size", "40", "--quick", "--out", str(tmp_path)]
    assert make_study().run(repeat, argv) == 0


def test_a_row_of_a_recipe_that_fails_is_left_out():
    table = ResultTable()
    with pytest.raises(RuntimeError), table.measure("fails"):
        raise RuntimeError
    assert table.rows == [] and table.to_frame().empty
    with table.measure("works", epochs=2) as row:
        row["accuracy"] = 1 / 3
    with table.measure("has another score") as row:
        row["r2"] = 0.25
    assert table.to_frame().columns.tolist() == ["recipe", "epochs", "accuracy", "r2", "seconds"]
    accuracy = table.to_frame()["accuracy"]
    assert accuracy[0] == 0.3333 and np.isnan(accuracy[1])


def test_predictions_are_printed_and_drawn(tmp_path, capsys):
    class Classifier:
        classes_ = np.array(["cat", "dog"])

        def predict_proba(self, X):
            return np.tile([0.25, 0.75], (len(X), 1))

    path = tmp_path / "a dog.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    paths = [str(path), str(tmp_path / "absent.png")]
    study = make_study()
    out = tmp_path / "out"
    assert study.run(lambda s: s.predict(Classifier(), paths), ["--model", "tiny", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{paths[0]}: dog (probability 0.750)" in lines
    assert f"{paths[1]}: unreadable: no such file" in lines
    with Image.open(out / "predictions.png") as image:
        assert min(image.size) > 200 and np.asarray(image.convert("L")).std() > 10


def test_draw_predictions_shows_the_most_probable_classes():
    X = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    X[0, :8] = 0  # black borders of the image itself are drawn
    probabilities = np.random.default_rng(1).dirichlet(np.ones(4), 5)
    figure = draw_predictions(X, probabilities, list("abcd"), titles=[f"image {i}" for i in range(5)], top=2)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [f"image {i}" for i in range(5)]
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    for row in probabilities:
        assert f"{row.max():.1%}" in texts and f"{np.sort(row)[-2]:.1%}" in texts
    assert len(texts) == 5 * 2 * 2
    shapes = {image.get_array().shape[:2] for ax in figure.axes for image in ax.get_images()}
    assert shapes == {(149, 224)}  # without padding
    with pytest.raises(ValueError, match=r"must have shape \(5, 4\).*got \(4, 4\)"):
        draw_predictions(X, probabilities[1:], list("abcd"))


def test_load_keras_network_gives_the_embeddings_of_the_library():
    X = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    network, preprocess = load_keras_network("tiny", image_size=32, pooling="max")
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, network(preprocess(inputs)))
    expected = CNNFeatures("tiny", image_size=32, pooling="max", cache=None).fit_transform(X)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_load_pixels_reads_paths_and_arrays(tmp_path):
    X = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    paths = np.array([str(tmp_path / f"{i}.png") for i in range(3)])
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    np.testing.assert_array_equal(load_pixels(paths, (10, 12)), load_pixels(X, (10, 12)))
    np.testing.assert_array_equal(load_pixels(X, (20, 30)), X)


def test_unreadable_images_are_named_and_left_out(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / label / "1.png")
    (tmp_path / "images" / "a" / "2.jpg").write_bytes(b"\xff\xd8\xff truncated")

    def repeat(study):
        X, y, names = study.load(read_source(tmp_path / "images"))
        assert y.tolist() == ["a", "b"] and names == ["a/1.png", "b/1.png"] and len(X) == 2

    assert make_study().run(repeat, ["--model", "tiny", "--out", str(tmp_path)]) == 0
    assert "a/2.jpg: unreadable: " in capsys.readouterr().out


def test_images_of_which_none_can_be_read_are_an_error(tmp_path, capsys):
    (tmp_path / "images.csv").write_text("path,label\na.png,a\nb.png,b\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    argv = ["--data", str(tmp_path / "images.csv"), "--model", "tiny", "--out", str(tmp_path)]
    assert make_study().run(lambda study: study.load(read_source(study.args.data)), argv) == 2
    assert "None of the 2 images in" in capsys.readouterr().err


def test_default_of_the_image_size_is_in_the_help(capsys):
    for size, text in ((96, "96"), (None, "the network's")):
        study = Study("example", "An example.", tutorial_network="vgg19", data="data", image_size=size)
        assert f"side of the images (default: {text})" in " ".join(study.parser.format_help().split())
        assert study.parser.parse_args([]).image_size == size


def test_the_table_shows_long_names_in_full():
    table = ResultTable()
    assert repr(table) == "no rows"
    name = "Keras alone, a network with a long name, one image after the other, 20 epochs"
    with table.measure(name) as row:
        row["accuracy"] = 0.5
    assert name in repr(table) and name in table._repr_html_()


def test_the_table_is_one_of_pandas():
    table = ResultTable()
    with table.measure("a") as row:
        row["accuracy"] = 0.123456
    expected = pd.DataFrame({"recipe": ["a"], "accuracy": [0.1235]})
    pd.testing.assert_frame_equal(table.to_frame()[["recipe", "accuracy"]], expected)
