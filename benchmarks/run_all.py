"""Run every benchmark, each for at most five minutes on two idle cores, and write all figures to one JSON file.

    python benchmarks/run_all.py [--quick] [--json PATH] [NAME ...]

With names, only these benchmarks run, and their figures replace those in the file; other figures are kept.
``python benchmarks/tables.py`` makes the tables of README.md and docs/ from the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
SEEDS = range(3)
CUTS = ("conv_dw_6", "conv_pw_12", "all")
# name in the results -> script and its arguments
BENCHMARKS = {
    "extract": ["extract.py"],
    "taps": ["taps.py"],
    "gridsearch": ["gridsearch.py", "--sets", "signs"],
    "gridsearch_photographs": ["gridsearch.py", "--sets", "photographs"],
    "select": ["select.py", "--part", "speed"],
    "select_regret": ["select.py", "--part", "regret", "--sets", "images"],
    "select_regret_generated": ["select.py", "--part", "regret", "--sets", "generated"],
    "selection_size": ["selection_size.py"],
    "selection_regret": ["selection_size.py", "--regret", "images"],
    "selection_regret_generated": ["selection_size.py", "--regret", "generated"],
    "finetune_times": ["finetune.py", "--part", "times"],
    "finetune_steps": ["finetune.py", "--part", "steps"],
    "finetune_frozen": ["finetune.py", "--part", "frozen"],
    # tables.py computes the means over the seeds
    **{
        f"finetune_{cut}_seed_{seed}": f"finetune.py --part signs --train-from {cut} --seed {seed}".split()
        for cut in CUTS
        for seed in SEEDS
    },
    **{f"finetune_lengths_seed_{i}": f"finetune.py --part lengths --seed {i}".split() for i in SEEDS},
    "tiny": ["tiny.py"],
    "conformal": ["conformal.py"],
    "suggest": ["suggest.py"],
    "views": ["views.py"],
    "store": ["store.py"],
    "store_rows": ["store.py", "--rows", "10000000"],
    "store_batches": ["store.py", "--batches"],
    "store_faults": ["store_faults.py"],
    "stream": ["stream.py"],
    "distributed": ["distributed.py"],
    "processes": ["processes.py"],
    "ledger": ["ledger.py"],
    "memory": ["memory.py"],
    "audit": ["audit.py"],
    "precision": ["precision.py"],
    "runtimes": ["runtimes.py"],
    "runtimes_efficientnet_b0": ["runtimes.py", "--networks", "efficientnetb0"],
    "runtimes_large": ["runtimes.py", "--networks", "resnet50", "vgg19"],
    "runtimes_convnext_tiny": ["runtimes.py", "--networks", "convnext_tiny"],
    "peers": ["peers.py"],
    "serve": ["serve.py"],
    "app_retraining": ["app.py", "--part", "retrain"],
    "app_kills": ["app.py", "--part", "labels"],
    "app_data": ["app_data.py"],
}


def run(name: str, quick: bool) -> dict | None:
    """Run one benchmark in a separate process; return its result, or None if it failed."""
    script, *options = BENCHMARKS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.json")
        command = [sys.executable, str(FOLDER / script), *options, "--json", str(path)]
        start = time.perf_counter()
        code = subprocess.run([*command, *(["--quick"] if quick else [])], check=False).returncode
        if code:
            print(f"{name} failed with exit code {code}.", file=sys.stderr)
            return None
        return {**json.loads(path.read_text("utf-8")), "seconds": round(time.perf_counter() - start)}


def main() -> int:
    """Run the benchmarks; return the number of failures as the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="smoke test, too small for meaningful figures")
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := set(args.names) - BENCHMARKS.keys():
        parser.error(f"unknown benchmarks {sorted(unknown)}; choose from {', '.join(BENCHMARKS)}")
    names = args.names or list(BENCHMARKS)
    results = json.loads(args.json.read_text("utf-8")) if args.json.is_file() else {}
    failed = 0
    for i, name in enumerate(names):
        print(f"\n{name} ({i + 1} of {len(names)})\n", flush=True)
        result = run(name, args.quick)
        failed += result is None
        if result is not None:
            results[name] = result
            ordered = {name: results[name] for name in BENCHMARKS if name in results}
            args.json.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())
