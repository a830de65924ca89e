"""`audit`: label errors, duplicates, outliers, faulty images and confounders of a source of images."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import typer

from tlfeatures._objects import is_object
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_csv, check_report_folder, write_csv
from tlfeatures.cli._terminal import show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.results import AuditResult

_SHOWN = 10  # number of suspected labels that are printed
_MANIFEST = r"path,(.+,)?issue,score,suggestion"  # columns of a manifest that this command writes


class AuditSource(opt.AllImages):
    """Images of all splits and, if available, their groups, which might predict the label."""

    groups: str | None = option(
        None,
        "Column of the manifest, or dataset of the HDF5 file, with the group of each image, such as the patient; the "
        "audit checks whether groups predict the label. dicom:PatientID reads the groups from DICOM files.",
    )


class AuditOptions(Options, panel="Search"):
    """Parameters of the search for label errors, duplicates and outliers."""

    cv: int = option(
        5, "Number of folds for the out-of-fold predictions that show label errors.", metavar="K", min=2
    )
    n_neighbors: int = option(
        10, "Number of nearest images with which each image is compared.", "--neighbors", min=1
    )
    duplicate_threshold: float = option(0.85, "Smallest cosine similarity of near-duplicates.")
    random_state: int = option(0, "Seed for shuffling the folds.", "--seed", min=0)


class AuditOutput(opt.OutputOptions):
    """Output of `audit`."""

    output: str | None = option(None, "Save the report in this folder.", "-o", metavar="DIR")
    write_manifest: str | None = option(
        None,
        "Write a manifest of all images with the columns issue, score and suggestion.",
        metavar="FILE.csv",
    )

    def check(self, source: str) -> None:
        """Raise an error if a file cannot be written.

        Also if it exists and was not written by this command, unless --force is passed.
        """
        from tlfeatures.report import is_audit

        check_csv(self.write_manifest, _MANIFEST, self.force, "--write-manifest")
        if self.output is not None:
            check_report_folder(self.output, source, self.force, is_audit)


def audit(
    context: typer.Context,
    source: AuditSource,
    options: AuditOptions,
    network: opt.NetworkOptions,
    compute: opt.FrozenOptions,
    files: AuditOutput,
) -> None:
    """Find label errors, duplicates, outliers, faulty images, and groups or file properties that predict the label.

    Nothing is changed or deleted. The report is an HTML page, index.html, with CSV files of all tables. The
    network processes each image at most once; a second audit reads the embeddings from the store.
    """
    import pandas

    from tlfeatures.report import write_audit
    from tlfeatures.trust import audit

    files.check(source.source)
    images = source.read()
    result = audit(
        images.images,
        images.y,
        images.groups,
        split=images.split,
        features=opt.make_cnn(network, compute),
        **options.parameters(),
    )
    unreadable = result.faults[result.faults["fault"] == "unreadable"]
    report_unreadable(images.paths, dict(zip(unreadable["row"], unreadable["reason"], strict=True)))
    if files.output is not None:
        write_audit(result, files.output, command=shlex.join(["tlfeatures", *context.obj]))
    if files.write_manifest is not None:
        manifest = result.manifest()
        if isinstance(images.images, list):  # paths in a manifest are relative to its folder
            paths = [path if is_object(path) else os.path.abspath(path) for path in manifest["path"]]
            manifest["path"] = pandas.Series(paths, manifest.index, dtype=object)
        write_csv(manifest, files.write_manifest)
    if files.as_json:
        tables = ("duplicates", "outliers", "faults", "confounders", "classes")
        summary = {"source": source.source, "counts": result.summary(), "label_errors": result.suspected}
        show_json(
            summary
            | {name: getattr(result, name) for name in tables}
            | {"output": files.output, "manifest": files.write_manifest}
        )
        return
    _show(result)
    for path in (files.output and os.path.join(files.output, "index.html"), files.write_manifest):
        if path is not None:
            show_text(f"Saved {path}.")


def _show(result: AuditResult) -> None:
    """Print the counts of all findings and the first suspected labels."""
    for note in result.notes:
        warn(note, "note: ")
    first = result.suspected.head(_SHOWN)
    if len(first):
        show_table(first[["image", "label", "suggestion", "score"]])
        show_text("")
    findings, *faults = result.describe()
    show_text(findings, style="bold")
    show_text(*faults)
    for confounder in result.describe_confounders():
        warn(confounder)
