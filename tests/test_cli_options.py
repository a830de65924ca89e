"""Groups of options, which several commands share."""

from __future__ import annotations

import re
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tlfeatures.cli._finetune import TrainingOptions
from tlfeatures.cli._groups import BadArgument, Options, argument, expand_options, option
from tlfeatures.cli._options import FrozenOptions, NetworkOptions, make_cnn


class Size(Options, panel="Size"):
    """A required argument, an option, and a flag."""

    name: str = argument("NAME", "Its name.")
    width: int = option(3, "In pixels.", "-w", min=1)
    wide: Annotated[bool, typer.Option("--wide")] = False


class LargeSize(Size):
    """A subclass that replaces two options."""

    width: int = option(300, "Pixels.", "-w")
    wide: bool = option(False, "Wide or not.")


def call(command, *argv):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(argv))


def test_group_becomes_options_and_is_passed_as_one_object():
    calls = []

    @expand_options
    def command(size: Size, other: Annotated[str, typer.Option()] = "x") -> None:
        """Do it."""
        calls.append((size, other))

    assert call(command, "a").exit_code == 0
    assert call(command, "b", "-w", "7", "--wide", "--other", "y").exit_code == 0
    assert calls == [(Size("a"), "x"), (Size("b", 7, True), "y")]
    output = call(command, "--help").output
    assert all(text in output for text in ("Do it.", "Its name.", "Size", "In pixels.", "--wide", "--other"))
    assert call(command).exit_code == 2
    assert call(command, "a", "--width", "0").exit_code == 2


def test_subclass_replaces_options():
    calls = []

    @expand_options
    def command(size: LargeSize) -> None:
        calls.append(size)

    assert call(command, "a").exit_code == 0
    assert call(command, "a", "-w", "4", "--wide").exit_code == 0
    assert calls == [LargeSize("a", 300, False), LargeSize("a", 4, True)]
    output = call(command, "--help").output
    assert "Wide or not." in output and " Pixels." in output and "--no-wide" not in output


def test_changed_options_are_listed_by_their_names():
    assert TrainingOptions().list_changed("epochs", "random_state") == []
    options = TrainingOptions(epochs=3, random_state=1, class_weight=True, tta=2)
    names = options.list_changed("random_state", "epochs", "class_weight", "patience")
    assert names == ["--seed", "--epochs", "--balanced"]


def test_make_cnn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cnn = make_cnn(
        NetworkOptions("net.keras", layer="a, b", image_size="96x64"),
        FrozenOptions(weights="random", batch_size=4, cache="none", runtime="openvino"),
    )
    assert cnn.model == str(tmp_path / "net.keras")
    assert (cnn.layer, cnn.image_size, cnn.weights) == (["a", "b"], (96, 64), None)
    assert (cnn.batch_size, cnn.cache, cnn.resize, cnn.runtime) == (4, None, "stretch", "openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            NetworkOptions(layer="a,,b"),
            "--layer 'a,,b': a name is empty; expected names separated by commas.",
        ),
        (NetworkOptions(image_size="big"), "--image-size 'big': expected pixels, such as 224, or"),
        (FrozenOptions(window="40"), "--window '40': expected CENTER,WIDTH, such as 40,400."),
        (TrainingOptions(head="wide"), "--head 'wide': expected widths and dropout rates"),
    ],
)
def test_errors_name_the_option_and_its_value(options, message):
    with pytest.raises(BadArgument, match=re.escape(message)):
        options.parameters()


def test_texts_and_flags_are_converted_to_parameters():
    options = TrainingOptions(start=True, class_weight=False, train_from="2", augment="crop=4")
    parameters = options.parameters()
    names = ("start", "class_weight", "train_from", "augment", "learning_rate")
    assert [parameters[name] for name in names] == ["linear", None, 2, {"crop": 4}, None]


def test_help_of_finetune_lists_all_augmentations():
    from tlfeatures.cli._app import app
    from tlfeatures.finetune._augment import _SHORT

    output = CliRunner().invoke(app, ["finetune", "--help"], env={"COLUMNS": "200"}).output
    text = output[output.index("--augment") : output.index("--tta")]
    for name in ("crop", "color", *_SHORT):
        assert name in text


@pytest.mark.parametrize("name", ["embed", "fit", "finetune"])
def test_commands_share_options(name):
    from tlfeatures.cli._app import app

    output = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    for shared in (
        "--model",
        "--layer",
        "--pooling",
        "--weights",
        "--image-size",
        "--cache",
        "--target",
        "--split",
    ):
        assert f"{shared} " in output
