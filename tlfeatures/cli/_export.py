"""`export`: write a saved model as an ONNX file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, option
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import show_json, show_text


class ExportOptions(Options):
    """Output files, and the images of the self-test."""

    output: str = option(
        ..., "ONNX file; a script with the suffix .py is written beside it.", "-o", metavar="FILE.onnx"
    )
    data: str | None = option(
        None,
        "Source of the images of the self-test, such as the training images; by default generated images.",
        metavar="SOURCE",
    )
    force: bool = option(False, "Overwrite existing files.")
    as_json: opt.Json = False


def export(model: opt.SavedModel, options: ExportOptions) -> None:
    """Write a saved model as one ONNX file, from pixels to predictions, for ONNX Runtime and other programs.

    Before the file is written, its predictions for 64 images are compared with those of the model. If the label of an
    image differs, or a probability by more than 0.0001, nothing is written.

    The script beside the file reads images exactly as the model does. It needs NumPy, Pillow and ONNX Runtime only.
    """
    from tlfeatures.export import check_packages, export_onnx

    check_output(options.output, (".onnx",), options.force)
    check_output(str(Path(options.output).with_suffix(".py")), (".py",), options.force)
    check_packages()
    fitted, data = model.load(), None
    if options.data is not None:
        from tlfeatures.sources import read_source

        data = read_source(options.data).images
    result = export_onnx(fitted, options.output, data=data, overwrite=options.force)
    if options.as_json:
        show_json(dataclasses.asdict(result))
    else:
        interface, test = result.describe()
        show_text(interface)
        show_text(test, style="bold")
        show_text(f"Saved {result.path} ({result.nbytes / 1e6:.1f} MB) and {result.script}.")
