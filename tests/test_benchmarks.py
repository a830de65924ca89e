"""Each benchmark runs in its quick mode, which checks no target, and tables.py makes tables of its figures."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURES = {
    "app": {"first_prediction_s", "click_to_predictions_s", "confirmed_but_lost", "second_instance_refused"},
    "audit": {"digits_found", "drawings_average_precision", "rows_s", "rows_peak_mb"},
    "conformal": {"digits_coverage", "digits_set_size", "digits_worst_class", "digits_flagged_noise"},
    "distributed": {
        "workers_1_times_local",
        "workers_2_times_local",
        "local_cpu_ms",
        "ray_cpu_ms",
        "cpu_ratio",
    },
    "extract": {
        *("loop_images_per_s", "dataset_images_per_s", "network_images_per_s", "decode_images_per_s"),
        *("tlfeatures_images_per_s", "bound_images_per_s", "times_loop", "times_dataset", "of_bound"),
        *("large_times_dataset", "large_cosine_to_exact", "vgg19_of_network"),
    },
    "finetune": {
        *(
            "signs_finetuned_conv_dw_6",
            "signs_gain_over_frozen",
            "signs_tutorials_recipe",
            "lengths_finetuned_r2",
        ),
        *("times_64_ratio", "times_64_difference_to_loop"),
        *("steps_ratio_to_fit_by_hand", "steps_resumed_difference"),
    },
    "gridsearch": {"photographs_1_jobs_cold_ratio", "photographs_1_jobs_warm_ratio"},
    "precision": {
        "vgg19_float32_apart",
        "vgg19_float32_ours_images_per_s",
        "vgg19_float32_of_bare",
        "vgg19_float32_cosine",
    },
    "runtimes": {"mobilenet_0.75_batch_8_ratio", "mobilenet_0.75_batch_8_cosine_mean"},
    "ledger": {"resume_s", "memory_mb", "append_images_per_s"},
    "processes": {"disjoint_2_times_one", "same_2_times_one"},
    "memory": {
        "cold_beyond_result_mb",
        "warm_beyond_result_mb",
        "npy_extra_mb",
        "h5_extra_mb",
        "parquet_extra_mb",
    },
    "select": {"naive_by_warm", "warm_by_ready", "images_per_network", "digits_regret_points"},
    "selection_size": {"seconds", "cpu_seconds", "peak_memory_gb", "best_score"},
    "selection_regret": {"digits_regret_points", "digits_worst_regret_points"},
    "serve": {"throughput_ratio", "median_ms", "percentile_99_ms", "lost", "wrong", "growth_mb"},
    "store": {"gather_rows_per_s", "large_cold_open_s"},
    "suggest": {"digits_labels_ratio", "digits_worst_difference", "digits_uncertain_labels_ratio"},
    "store_rows": {"open_s", "open_private_mb", "lookup_s", "add_s", "open_ratio"},
    "stream": {"digits_difference", "fit_s", "extra_mb", "accuracy_difference", "pass_rows_per_s"},
    "store_batches": {"shuffled_rows_per_s", "file_order_rows_per_s", "extra_mb"},
    "taps": {"network_ratio", "files_ratio"},
    "views": {"pets_flip_mean", "signs_crops_rows_gain", "largest_mean_gain"},
    "tiny": {"digits_avgmax_5fold", "random_digits_avgmax_5fold"},
}
OPTIONS = {
    "selection_regret": [str(BENCHMARKS / "selection_size.py"), "--regret", "images"],
    "store_rows": [str(BENCHMARKS / "store.py"), "--rows", "40960"],
    "store_batches": [str(BENCHMARKS / "store.py"), "--batches"],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Run the benchmarks, four at a time, because each mostly waits."""
    folder = tmp_path_factory.mktemp("benchmarks")

    def run(name: str) -> int:
        script = OPTIONS.get(name, [str(BENCHMARKS / f"{name}.py")])
        command = [sys.executable, *script, "--quick", "--json", f"{folder}/{name}.json"]
        with open(folder / f"{name}.txt", "w") as output:
            return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=1200).returncode

    with ThreadPoolExecutor(4) as pool:
        codes = {name: pool.submit(run, name) for name in FIGURES}
        yield folder, codes
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.timeout(3000)  # the first test may wait for all benchmarks
@pytest.mark.parametrize("name", FIGURES)
def test_quick_mode(running, name):
    folder, codes = running
    code = codes[name].result()
    output = (folder / f"{name}.txt").read_text()
    assert code == 0, output
    result = json.loads((folder / f"{name}.json").read_text())
    assert (result["benchmark"], result["quick"]) == (name, True)
    assert FIGURES[name] <= result["figures"].keys()
    assert all(isinstance(value, float | int) and value == value for value in result["figures"].values())
    assert result["targets"].keys() <= result["figures"].keys() and result["targets"]
    for figure in result["targets"]:
        assert any(line.startswith(figure) and "target" in line for line in output.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_embeddings_equal_those_of_keras(running):
    folder, codes = running
    assert codes["extract"].result() == 0
    figures = json.loads((folder / "extract.json").read_text())["figures"]
    assert figures["largest_difference_to_loop"] < 1e-4
    assert figures["large_cosine_to_exact"] > 0.999


def load(name):
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return load("tables")


class AnyFigure(dict):
    """Figures of a benchmark that are all equal."""

    def __missing__(self, name):
        return 0.125


def test_tables_are_made_from_figures(tables):
    page = "before\n<!-- benchmark: tiny -->\n| old |\n<!-- end -->\nafter\n"
    figures = {"tiny": AnyFigure()}
    filled = tables.fill(page, figures)
    assert filled.startswith(
        "before\n<!-- benchmark: tiny -->\n| data | random weights, same network | tiny |\n"
    )
    assert "| scikit-learn's digits, 5-fold | 12.5% | 12.5% |\n<!-- end -->\nafter\n" in filled
    assert tables.fill(filled, figures) == filled


def test_table_names_the_machine_of_each_benchmark(tables, tmp_path, monkeypatch, capsys):
    result = {"processor": "AMD EPYC", "cores": 2, "python": "3.11.7", "figures": {}}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(dict.fromkeys(tables.MACHINES.values(), result)), "utf-8")
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("<!-- benchmark: machines -->\n<!-- end -->\n", "utf-8")
    (tmp_path / "README.md").write_text("", "utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["tables.py", "--json", str(path)])
    assert tables.main() == 0
    assert "| views | AMD EPYC | 2 | 3.11.7 |" in page.read_text("utf-8")
    assert "written: docs/page.md" in capsys.readouterr().out


def test_figures_of_the_quick_mode_are_not_used(tables, tmp_path, monkeypatch, capsys):
    path, page = tmp_path / "results.json", tmp_path / "README.md"
    tiny = {
        "quick": True,
        "figures": {f"{kind}{key}": 0.1 for key in tables.TINY.values() for kind in ("", "random_")},
    }
    page.write_text("<!-- benchmark: tiny -->\n| old |\n<!-- end -->\n", "utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["tables.py", "--json", str(path)])
    for is_quick in (True, False):
        path.write_text(json.dumps({"tiny": tiny | {"quick": is_quick}}), "utf-8")
        assert tables.main() == 0
        assert ("| old |" in page.read_text("utf-8")) == is_quick


def test_table_without_figures_is_not_changed(tables, capsys):
    page = "<!-- benchmark: speed -->\n| old |\n<!-- end -->\n"
    assert tables.fill(page, {"extract": {}}) == page
    assert "table 'speed' stays as it is: no figure 'tlfeatures_images_per_s'" in capsys.readouterr().err


def test_rows_without_figures_are_not_changed(tables, capsys):
    figures = {"peers": AnyFigure(), "distributed": AnyFigure()}
    page = tables.fill("<!-- benchmark: machines -->\n<!-- end -->\n", figures)
    assert page == "<!-- benchmark: machines -->\n<!-- end -->\n"
    rows = tables.TABLES["machines"][1]
    old = "".join(
        f"| {cell} | old | old | old |\n" for cell in ("figures of", "---", *(row[0] for row in rows))
    )
    lines = tables.table("machines", figures, old).splitlines()
    assert "| [other libraries](#other-libraries) | 0.125 | 0.125 | 0.125 |" in lines
    assert "| views | old | old | old |" in lines and len(lines) == len(rows) + 2
    assert "of table 'machines' stays as it is: no figure 'views'" in capsys.readouterr().err


def test_figures_are_means_over_the_seeds(tables):
    seeds = {f"finetune_all_seed_{i}": {"score": 0.1 * i, "python": "3.11"} for i in range(3)}
    figures = tables.add_means({"tiny": {"score": 1.0}, **seeds})
    assert (
        "{finetune_all[score]:.2f} {finetune_all[python]} {tiny[score]}".format_map(figures)
        == "0.10 3.11 1.0"
    )


def test_two_of_three_seeds_have_no_mean(tables):
    two = {f"finetune_all_seed_{i}": {"score": 0.5} for i in (0, 2)}
    assert "finetune_all" not in tables.add_means(two)


def test_figures_of_all_tables_exist(tables):
    root = BENCHMARKS.parent
    pages = [root / "README.md", *root.glob("docs/**/*.md")]
    names = [m[2] for page in pages for m in tables.BLOCK.finditer(page.read_text("utf-8"))]
    assert sorted(set(names)) == sorted(tables.TABLES)
    figures = tables.add_means({name: AnyFigure() for name in load("run_all").BENCHMARKS})
    for name in names:
        lines = tables.table(name, figures).splitlines()
        assert len({line.count("|") for line in lines}) == 1, name
