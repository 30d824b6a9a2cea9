"""A campaign: every target guided by coverage, one after the other; what it found out goes to the corpus.

    python tests/fuzz/campaign.py --work DIR [--scale 1.0] [--seconds N] [TARGET...]

Each target does so many runs as `RUNS` says, times the scale, or runs for so many seconds, in one process. Of
what it found, as many inputs, the smallest first, as `KEEP` allows are then kept in `corpus/TARGET`. A table
of runs, seconds and defects is printed; a defect leaves its input in DIR/TARGET/crash-…. The C walkers
(`walk`) need clang with its sanitizers; everything else runs without the C library, so that the Python twins
are what is covered.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fuzzing

HERE = Path(__file__).parent
RUNS = {
    "walk": 12_000_000,
    "cbor": 1_000_000,
    "format": 1_000_000,
    "requests": 500_000,
    "spool": 400_000,
    "text": 300_000,
    "frame": 100_000,
    "pcapng": 60_000,
    "session": 60_000,
    "store": 60_000,
    "packets": 30_000,
    "btf": 20_000,
    "verbs": 5_000,
}
KEEP = 32 << 10  # bytes of a target's corpus in the tree
SANITIZERS = "-fsanitize=fuzzer,address,undefined"


def command(name: str, work: Path) -> tuple[list[str], list[str]]:
    """What runs the target, and the folders of inputs beside its own."""
    kept = HERE / "corpus" / name
    more = [str(kept)] if kept.is_dir() else []
    if name != "walk":
        return [sys.executable, str(HERE / "fuzz_NAME.py").replace("NAME", name)], []
    program = work / "walk_fuzz"
    flags = ["-g", "-O1", SANITIZERS, "-fno-sanitize-recover=all", "-DKWIRE_TRAPS", "-o", str(program)]
    subprocess.run(["clang", *flags, *fuzzing.WALK_SOURCES], check=True)
    seeds = work / "walk-seeds"
    subprocess.run([sys.executable, str(HERE / "walk_seeds.py"), str(seeds)], check=True)
    return [str(program)], [str(seeds), *more]


def run(name: str, runs: int, seconds_most: int, work: Path) -> tuple[int, float, int]:
    """Run one target; runs done, seconds, defects."""
    folder = work / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    words, more = command(name, work)
    options = [f"-runs={runs}", "-print_final_stats=1", "-timeout=20", "-rss_limit_mb=3000"]
    options += ["-max_len=4096", f"-max_total_time={seconds_most}"]
    environment = {**os.environ, "KWIRE_NATIVE": "0", "ASAN_OPTIONS": "detect_leaks=0"}
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        subprocess.run(
            [*words, str(corpus), *more, *options], cwd=folder, stdout=log, stderr=log, env=environment
        )
    seconds = time.monotonic() - began
    text = (folder / "log").read_text(errors="replace")
    done = re.search(r"number_of_executed_units: (\d+)", text)
    keep(name, corpus, words, folder, environment)
    return (
        int(done[1]) if done else 0,
        seconds,
        sum(len(list(folder.glob(f"{what}-*"))) for what in ("crash", "timeout", "oom")),
    )


def keep(name: str, corpus: Path, words: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Keep the smallest of the inputs that were found, now and before, in the tree."""
    kept = HERE / "corpus" / name
    kept.mkdir(parents=True, exist_ok=True)
    if name == "walk":  # libFuzzer leaves out what covers nothing more; it cannot where Python runs it
        small = folder / "small"
        shutil.rmtree(small, ignore_errors=True)
        small.mkdir()
        merge = [*words, str(small), str(kept), str(corpus), "-merge=1"]
        with (folder / "merge-log").open("w") as log:
            subprocess.run(merge, cwd=folder, stdout=log, stderr=log, env=environment)
        shutil.rmtree(kept)
        kept.mkdir()
        corpus = small
    for path in corpus.iterdir():
        shutil.copy(path, kept / path.name[:16])
    room = KEEP
    for path in sorted(kept.iterdir(), key=lambda path: path.stat().st_size):
        room -= path.stat().st_size
        if room < 0:
            path.unlink()


def main() -> None:
    """Run the targets asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seconds", type=int, default=0, help="of each target, at most; 0: no limit")
    parser.add_argument("targets", nargs="*", default=list(RUNS))
    args = parser.parse_args()
    total = 0
    print(f"{'target':<10} {'runs':>12} {'seconds':>8} {'defects':>8}", flush=True)
    for name in args.targets:
        done, seconds, defects = run(name, int(RUNS[name] * args.scale), args.seconds, args.work.resolve())
        total += done
        print(f"{name:<10} {done:>12,} {seconds:>8.0f} {defects:>8}", flush=True)
    print(f"{'all':<10} {total:>12,}")


if __name__ == "__main__":
    main()
