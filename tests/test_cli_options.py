"""Groups of options: one declaration, the same options in every command."""

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
    """The same with another default."""

    width: int = 300


def call(command, *argv):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(argv))


def test_a_group_becomes_options_and_comes_back_as_one_value():
    seen = []

    @expand_options
    def command(size: Size, other: Annotated[str, typer.Option()] = "x") -> None:
        """Do it."""
        seen.append((size, other))

    assert call(command, "a").exit_code == 0
    assert call(command, "b", "-w", "7", "--wide", "--other", "y").exit_code == 0
    assert seen == [(Size("a"), "x"), (Size("b", 7, True), "y")]
    shown = call(command, "--help").output
    assert all(text in shown for text in ("Do it.", "In pixels.", "--wide", "--other"))
    assert call(command).exit_code == 2
    assert call(command, "a", "--width", "0").exit_code == 2


def test_a_subclass_overrides_a_default():
    seen = []

    @expand_options
    def command(size: LargeSize) -> None:
        seen.append(size)

    assert call(command, "a").exit_code == 0
    assert seen == [LargeSize("a", 300)]


def test_options_become_a_transformer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cnn = make_cnn(
        NetworkOptions("net.keras", layer="a, b", image_size="96x64"),
        ComputeOptions(weights="random", batch_size=4, cache="none"),
    )
    assert cnn.model == str(tmp_path / "net.keras")
    assert (cnn.layer, cnn.image_size, cnn.weights) == (["a", "b"], (96, 64), None)
    assert (cnn.batch_size, cnn.cache, cnn.resize) == (4, None, "stretch")


@pytest.mark.parametrize("name", ["embed", "fit", "finetune"])
def test_commands_have_the_same_options(name):
    from tlfeatures.cli._app import app

    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
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
        assert f"{option} " in shown
