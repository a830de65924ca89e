"""Make the tables of README.md and docs/ from ``results.json``, which ``run_all.py`` writes.

    python benchmarks/tables.py [--check]

Tables are between ``<!-- benchmark: NAME -->`` and ``<!-- end -->``. A row whose figures are not in the file, or are
those of a smoke test (``--quick``), is not changed. Benchmarks that run once for each seed count if all three seeds are
in the file, with the means of their figures. ``--check`` changes no table, and exits with 1 if one differs from the
file.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

# title -> benchmark whose machine is named
MACHINES = {
    "speed: JPEG files to embeddings": "extract",
    "speed: `tlfeatures select`": "select",
    "choosing a layer, fused layers": "select_regret",
    "views": "views",
    "fine-tuning: accuracy": "finetune_conv_dw_6",
    "fine-tuning: seconds": "finetune_times",
    "the bundled network": "tiny",
    "[prediction sets](trust.md)": "conformal",
    "[what to label next](trust.md)": "suggest",
    "[Ray workers](scale.md)": "distributed",
    "[runtimes](#runtimes)": "runtimes",
    "[other libraries](#other-libraries)": "peers",
}
SPEED = [
    (
        "JPEG files of 500 pixels to embeddings, MobileNet 0.75 at 224",
        "{extract[tlfeatures_images_per_s]:.0f} images/s: {extract[times_loop]:.0f} times as fast as a Keras loop over "
        "single images, {extract[times_dataset]:.1f} times as fast as `image_dataset_from_directory` with `predict`, "
        "{extract[of_bound]:.2f} times the speed that follows from the times of the network and the decoder alone",
        "extract",
    ),
    (
        "JPEG files of 12 megapixels, the same network",
        "files of 3 MB: {extract[large_tlfeatures_images_per_s]:.0f} images/s, {extract[large_times_exact]:.1f} times "
        "as fast as exact decoding, {extract[large_times_dataset]:.1f} times as fast as "
        "`image_dataset_from_directory`; reading and entropy decoding alone take so long that at most "
        "{extract[large_entropy_images_per_s]:.0f} images/s are possible. Files of 1 MB: "
        "{extract[smooth_tlfeatures_images_per_s]:.0f} images/s, {extract[smooth_times_exact]:.1f} times and "
        "{extract[smooth_times_dataset]:.1f} times as fast; at most "
        "{extract[smooth_entropy_images_per_s]:.0f} images/s are possible",
        "extract",
    ),
    (
        "JPEG files of 500 pixels, ResNet50 and VGG19",
        "{extract[resnet50_tlfeatures_images_per_s]:.0f} and {extract[vgg19_tlfeatures_images_per_s]:.1f} images/s: "
        "{extract[resnet50_of_network]:.2f} and {extract[vgg19_of_network]:.2f} of the speed of the compiled network "
        "alone",
        "extract",
    ),
    (
        "six layers with two poolings in one pass",
        "{taps[files_ratio]:.2f} times the time of the deepest layer alone",
        "taps",
    ),
    (
        "GridSearchCV, 24 candidates x 5 folds, {gridsearch_photographs[photographs_images]:,.0f} photographs, 2 jobs",
        "with an empty store, {gridsearch_photographs[photographs_2_jobs_cold_ratio]:.2f} times the time of one "
        "extraction and a search on a matrix in memory; with all rows in the store, "
        "{gridsearch_photographs[photographs_2_jobs_warm_ratio]:.2f} times the time of the search on a matrix",
        "gridsearch",
    ),
    (
        "`tlfeatures select`, {select[candidates]:.0f} candidates x 5 folds on {select[images]:,.0f} hand signs at 224",
        "{select[cold_s]:.0f} s with an empty store, {select[warm_s]:.0f} s with all rows in the store: "
        "{select[warm_by_ready]:.2f} times the time of the same fits on matrices in memory, "
        "{select[naive_by_warm]:.0f} times as fast as scikit-learn's search without a store "
        "({select[naive_fits_measured]:.0f} of its fits measured, the rest extrapolated)",
        "select",
    ),
    (
        "store of rows of 512 values",
        "{store[gather_rows_per_s]:,.0f} rows/s read; 100,000 rows opened in "
        "{store[cold_open_s]:.2f} s from disk, ten million in {store_rows[open_s]:.1f} s",
        "store",
    ),
    (
        "`tlfeatures serve`, MobileNet 0.75, 50 clients on the same two cores",
        "{serve[serve_images_per_s]:.0f} images/s, {serve[throughput_ratio]:.2f} times the rate of `transform` without "
        "a service; half of the answers took less than {serve[median_ms]:.0f} ms, and 99% less than "
        "{serve[percentile_99_ms]:.0f} ms; of {serve[memory_requests]:,.0f} further requests {serve[lost]:.0f} were "
        "lost, and memory grew by {serve[growth_mb]:.0f} MB",
        "serve",
    ),
    (
        "memory",
        "without the result itself, 20,000 images take {memory[cold_beyond_result_mb]:.0f} MB more than 2,000 images "
        "with an empty store, and {memory[warm_beyond_result_mb]:.0f} MB more with all rows in the store",
        "memory",
    ),
]
N_SEEDS = 3  # of benchmarks that run once for each seed, as NAME_seed_0, NAME_seed_1, ...
# data set -> title, benchmark
REGRET = {
    "signs": ("hand signs", "select_regret"),
    "digits": ("digits", "select_regret"),
    "pets": ("pets, whose classes are in ImageNet", "select_regret"),
    "textures": ("generated textures: stripes at eight angles, with noise", "select_regret_generated"),
    "shapes": ("generated shapes", "select_regret_generated"),
    "noises": ("generated noise with six power spectra", "select_regret_generated"),
}
SIGNS = {
    "conv_pw_12": "fine-tuned from `conv_pw_12`, 40 epochs, crops",
    "conv_dw_6": "fine-tuned from `conv_dw_6`",
    "all": "fine-tuned as a whole",
}
TINY = {
    "hand signs, 5-fold on all 1,200": "signs_avgmax_5fold",
    "hand signs, test set of 120": "signs_avgmax_test",
    "pets (cats, dogs, horses), 5-fold": "pets_avgmax_5fold",
    "scikit-learn's digits, 5-fold": "digits_avgmax_5fold",
}
VIEWS = {
    "pets": "pets, 157 training images",
    "signs": "hand signs at 64, 960 training images",
    "signs_120": "hand signs at 64, 120 training images",
}
KINDS = {"flip": 2, "crops": 6, "flip+crops": 12}
CONFORMAL = {
    "signs": ("hand signs at 64", {"digits": "digits", "pets": "pets", "noise": "noise"}),
    "digits": ("digits", {"signs": "hand signs", "pets": "pets", "noise": "noise"}),
    "pets": ("pets", {"digits": "digits", "signs": "hand signs", "noise": "noise"}),
}
SUGGEST = {
    "signs": "hand signs at 64",
    "digits": "digits",
    "hard": "hand signs at 64, last layer, which separates them badly",
}
RUNTIMES = {
    "bfloat16": "TensorFlow, bfloat16",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino_bf16": "OpenVINO, bfloat16",
    "openvino_int8": "OpenVINO, int8",
}
PRECISIONS = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8, calibrated on every tenth image"}
RUNTIME_NETWORKS = {
    "mobilenet_0.75": "MobileNet 0.75",
    "mobilenet": "MobileNet",
    "efficientnetb0": "EfficientNet-B0",
    "resnet50": "ResNet50",
    "vgg19": "VGG19",
    "convnext_tiny": "ConvNeXt-Tiny",
}
RUNTIME_SETTINGS = {
    "batch_8": "batches of 8",
    "batch_128": "batches of 128",
    "one_thread": "one thread for each operation, two operations at a time",
    "inter_1": "one operation at a time",
    "no_onednn": "without oneDNN",
    "fpmath_bf16": "oneDNN may use bfloat16",
    "graph_bf16": "graph optimizer for bfloat16",
    "xla": "XLA",
}


# network -> benchmark, if it is not "runtimes"
OTHER_ENTRIES = {
    "efficientnetb0": "runtimes_efficientnet_b0",
    "resnet50": "runtimes_large",
    "vgg19": "runtimes_large",
    "convnext_tiny": "runtimes_convnext_tiny",
}


def _runtime_figure(network: str, figure: str, digits: int) -> str:
    """Return the format of a figure of a network."""
    return f"{{{OTHER_ENTRIES.get(network, 'runtimes')}[{network}_{figure}]:.{digits}f}}"


def _runtime_cell(network: str, side: str) -> str:
    """Return the format of a ratio of speeds, and of the lowest cosine in brackets."""
    ratio = _runtime_figure(network, f"{side}_ratio", 2)
    return f"{ratio} ({_runtime_figure(network, f'{side}_cosine_min', 4)})"


# name of a table -> its header and rows; a cell is a format string of figures by benchmark
TABLES: dict[str, tuple[list[str], list[list[str]]]] = {
    "conformal": (
        [
            *(
                "data",
                "accuracy",
                "sets that contain the true class",
                "classes per set",
                "both with `allow_empty=True`",
            ),
            *(
                "worst class with `per_class=True`",
                "unusual among the same data",
                "unusual among other data",
            ),
        ],
        [
            [
                title,
                f"{{conformal[{name}_accuracy]:.1%}}",
                f"{{conformal[{name}_coverage]:.1%}}",
                f"{{conformal[{name}_set_size]:.2f}}",
                f"{{conformal[{name}_empty_allowed_coverage]:.1%}}, {{conformal[{name}_empty_allowed_set_size]:.2f}}",
                f"{{conformal[{name}_worst_class]:.1%}}",
                f"{{conformal[{name}_false_alarms]:.1%}}",
                ", ".join(f"{text} {{conformal[{name}_flagged_{key}]:.0%}}" for key, text in others.items()),
            ]
            for name, (title, others) in CONFORMAL.items()
        ],
    ),
    "machines": (
        ["benchmark", "processor", "cores", "Python"],
        [
            [title, *(f"{{{name}[{field}]}}" for field in ("processor", "cores", "python"))]
            for title, name in MACHINES.items()
        ],
    ),
    "distributed": (
        ["with a network that takes 100 ms per batch of 32 images", "images/s", "times one process"],
        [
            ["one process", "{distributed[local_images_per_s]:.0f}", "1"],
            *(
                [
                    f"{n} Ray worker{'s' * (n > 1)}",
                    f"{{distributed[workers_{n}_images_per_s]:.0f}}",
                    f"{{distributed[workers_{n}_times_local]:.2f}}",
                ]
                for n in (1, 2, 4)
            ),
        ],
    ),
    "peers": (
        ["", "images/s", "speed of tlfeatures, relative to it"],
        [
            ["tlfeatures", "{peers[tlfeatures_images_per_s]:.0f}", "1"],
            *(
                [name, f"{{peers[{name}_images_per_s]:.0f}}", f"{{peers[times_{name}]:.1f}}"]
                for name in ("thingsvision", "embetter")
            ),
        ],
    ),
    "runtimes": (
        ["", *RUNTIME_NETWORKS.values()],
        [
            [
                "TensorFlow: images/s",
                *(_runtime_figure(network, "default_images_per_s", 0) for network in RUNTIME_NETWORKS),
            ],
            *(
                [title, *(_runtime_cell(network, side) for network in RUNTIME_NETWORKS)]
                for side, title in RUNTIMES.items()
            ),
        ],
    ),
    "runtime_settings": (
        ["TensorFlow", "MobileNet 0.75"],
        [[title, _runtime_cell("mobilenet_0.75", side)] for side, title in RUNTIME_SETTINGS.items()],
    ),
    "precisions": (
        ["precision", "hand signs at 64", "pets"],
        [
            [title, *(f"{{runtimes[{data}_{precision}_accuracy]:.1%}}" for data in ("signs", "pets"))]
            for precision, title in PRECISIONS.items()
        ],
    ),
    "suggest": (
        [
            "data",
            "accuracy with 80 labels",
            "140",
            "200",
            "260",
            "labels needed to match 300 random labels",
        ],
        [
            [
                title,
                *(
                    f"{{suggest[{name}_accuracy_{n}]:.1%}} (random {{suggest[{name}_random_accuracy_{n}]:.1%}})"
                    for n in (80, 140, 200, 260)
                ),
                f"{{suggest[{name}_labels_ratio]:.0%}}",
            ]
            for name, title in SUGGEST.items()
        ],
    ),
    "speed": (
        ["what", "measured", "command"],
        [[task, measured, f"`python benchmarks/{name}.py`"] for task, measured, name in SPEED],
    ),
    "search": (
        ["images", "last layer", "best candidate on the test half", "points lost by the search"],
        [
            [
                title,
                f"{{{benchmark}[{name}_last_layer]:.1%}}",
                f"{{{benchmark}[{name}_best_fixed]:.1%}}",
                f"{{{benchmark}[{name}_regret_points]:.1f}}",
            ]
            for name, (title, benchmark) in REGRET.items()
        ],
    ),
    "fused": (
        [
            "images",
            "best standard candidate",
            "best fused candidate",
            "points lost without fused layers",
            "points lost with fused layers",
            "gain of fused layers",
        ],
        [
            [
                title,
                f"{{{benchmark}[{name}_best_fixed]:.1%}}",
                f"{{{benchmark}[{name}_best_fused]:.1%}}",
                f"{{{benchmark}[{name}_regret_without_fused]:.1f}}",
                f"{{{benchmark}[{name}_regret_with_fused]:.1f}}",
                f"{{{benchmark}[{name}_fused_gain_points]:+.1f}} ± {{{benchmark}[{name}_fused_gain_se]:.1f}}",
            ]
            for name, (title, benchmark) in REGRET.items()
        ],
    ),
    "finetune": (
        ["", "test accuracy", "seconds"],
        [
            [
                "frozen: layer, pooling and head chosen by cross-validation",
                "{finetune_frozen[signs_frozen]:.1%}",
                "",
            ],
            [
                "the tutorial's recipe: frozen, global max pooling, Dense(128), 20 epochs",
                "{finetune_frozen[signs_tutorials_recipe]:.1%}",
                "{finetune_times[times_64_stored_s]:.0f}",
            ],
            *(
                [
                    title,
                    f"{{finetune_{cut}[signs_finetuned_{cut}]:.1%}}",
                    f"{{finetune_{cut}[signs_finetuned_{cut}_s]:.0f}}",
                ]
                for cut, title in SIGNS.items()
            ),
        ],
    ),
    "stored": (
        [
            "the tutorial's recipe, with an empty store",
            "stored embeddings",
            "plain Keras, which runs the network in each epoch",
        ],
        [
            [
                f"{size}x{size}",
                f"{{finetune_times[times_{size}_stored_s]:.1f}} s",
                f"{{finetune_times[times_{size}_loop_s]:.0f}} s",
            ]
            for size in (64, 224)
        ],
    ),
    "views": (
        ["images", "the image alone", *(f'`views="{kind}"`' for kind in KINDS)],
        [
            [
                title,
                f"{{views[{name}_image_mean]:.1f}}%",
                *(
                    f"{{views[{name}_{kind}_mean]:.1f}}% ({{views[{name}_{kind}_mean_gain]:+.1f}} ± "
                    f"{{views[{name}_{kind}_mean_gain_se]:.1f}})"
                    for kind in KINDS
                ),
            ]
            for name, title in VIEWS.items()
        ],
    ),
    "views_rows": (
        ["images", *(f'`views="{kind}"`' for kind in KINDS)],
        [
            [
                title,
                *(
                    f"{{views[{name}_{kind}_rows]:.1f}}% ({{views[{name}_{kind}_rows_gain]:+.1f}} ± "
                    f"{{views[{name}_{kind}_rows_gain_se]:.1f}})"
                    if name != "signs" or kind == "flip"
                    else ""
                    for kind in KINDS
                ),
            ]
            for name, title in VIEWS.items()
        ],
    ),
    "tiny": (
        ["data", "random weights, same network", "tiny"],
        [[title, f"{{tiny[random_{key}]:.1%}}", f"{{tiny[{key}]:.1%}}"] for title, key in TINY.items()],
    ),
}


class MeanOfSeeds:
    """Figures of a benchmark that ran once for each seed: means of numbers, and what is not a number of the first."""

    def __init__(self, results: list[dict[str, Any]]) -> None:
        self.results = results

    def __getitem__(self, name: str) -> Any:
        values = [result[name] for result in self.results]
        return statistics.mean(values) if isinstance(values[0], float) else values[0]


def add_means(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Add NAME for each benchmark with results of all seeds, NAME_seed_0 to NAME_seed_2."""
    seeds: dict[str, list[dict[str, Any]]] = {}
    for name, result in figures.items():
        benchmark, separator, _ = name.partition("_seed_")
        if separator:
            seeds.setdefault(benchmark, []).append(result)
    means = {name: MeanOfSeeds(results) for name, results in seeds.items() if len(results) == N_SEEDS}
    return {**figures, **means}


def table(name: str, figures: dict[str, Any], old: str = "") -> str:
    """Make a table in Markdown; rows whose figures are missing are those of the old table.

    Raises
    ------
    KeyError
        With the missing figure, if the old table does not have the row.
    """
    header, rows = TABLES[name]
    old_rows = old.splitlines(keepends=True)[2:]
    lines = [_make_line(header), _make_line(["---"] * len(header))]
    for i, row in enumerate(rows):
        try:
            lines.append(_make_line([cell.format_map(figures) for cell in row]))
        except KeyError as error:
            if len(old_rows) != len(rows):
                raise
            lines.append(old_rows[i])
            print(f"row {i + 1} of table {name!r} stays as it is: no figure {error}", file=sys.stderr)
    return "".join(lines)


def _make_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


def fill(text: str, figures: dict[str, Any]) -> str:
    """Return ``text`` with all tables updated whose figures are available."""

    def block(match: re.Match) -> str:
        begin, name, old, end = match.groups()
        try:
            return begin + table(name, figures, old) + end
        except KeyError as error:
            print(f"table {name!r} stays as it is: no figure {error}", file=sys.stderr)
            return begin + old + end

    return BLOCK.sub(block, text)


def main() -> int:
    """Update the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path, default=FOLDER / "results.json")
    args = parser.parse_args()
    results = json.loads(args.json.read_text("utf-8")) if args.json.is_file() else {}
    measured = {name: result for name, result in results.items() if not result.get("quick")}
    figures = add_means({name: {**result, **result["figures"]} for name, result in measured.items()})
    stale = []
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        before = page.read_text("utf-8")
        if (after := fill(before, figures)) != before:
            stale.append(page.relative_to(ROOT))
            if not args.check:
                page.write_text(after, "utf-8")
    print("\n".join(f"{'differs' if args.check else 'written'}: {page}" for page in stale))
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
