"""Groups of options, which several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tlfeatures.cli._options import ComputeOptions, NetworkOptions, expand_options, make_cnn


@dataclass(frozen=True)
class Size:
    """A required argument, an option, and a flag."""

    name: Annotated[str, typer.Argument(metavar="NAME")]
    width: Annotated[int, typer.Option("--width", "-w", help="In pixels.", min=1)] = 3
    wide: Annotated[bool, typer.Option("--wide")] = False


@dataclass(frozen=True)
class LargeSize(Size):
    """A subclass with another default."""

    width: int = 300


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
    assert all(text in output for text in ("Do it.", "In pixels.", "--wide", "--other"))
    assert call(command).exit_code == 2
    assert call(command, "a", "--width", "0").exit_code == 2


def test_subclass_overrides_a_default():
    calls = []

    @expand_options
    def command(size: LargeSize) -> None:
        calls.append(size)

    assert call(command, "a").exit_code == 0
    assert calls == [LargeSize("a", 300)]


def test_make_cnn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cnn = make_cnn(
        NetworkOptions("net.keras", layer="a, b", image_size="96x64"),
        ComputeOptions(weights="random", batch_size=4, cache="none"),
    )
    assert cnn.model == str(tmp_path / "net.keras")
    assert (cnn.layer, cnn.image_size, cnn.weights) == (["a", "b"], (96, 64), None)
    assert (cnn.batch_size, cnn.cache, cnn.resize) == (4, None, "stretch")


@pytest.mark.parametrize("name", ["embed", "fit", "finetune"])
def test_commands_share_options(name):
    from tlfeatures.cli._app import app

    output = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    for option in (
        "--model",
        "--layer",
        "--pooling",
        "--weights",
        "--image-size",
        "--cache",
        "--target",
        "--split",
    ):
        assert f"{option} " in output
