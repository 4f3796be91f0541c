"""The report of a long run: seconds to write it, its size, and seconds until headless Chromium shows it and has searched it.

The run is synthetic (bench/synthetic_run.py), written by the real writers of journal and metrics: 2,000 steps with 1,024,000
rollouts of 64 tokens in the median take a gigabyte of disk and some minutes. Without chromium and chromium-driver nothing is
opened.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import msgspec

from ..common.config.run_files import RunPaths
from ..launch.report.command import MEGABYTES, write_report
from .browser import Browser, missing_browser
from .measure import report
from .synthetic_run import SyntheticSize, write_synthetic_run

READY = "document.documentElement.dataset.ready"
# types a word that is in many completions, and measures how long the list takes
SEARCH = """
const field = document.getElementById("rollout-search"), began = performance.now();
wanted.text = arguments[0]; search();
return [(performance.now() - began) / 1000, found.length];
"""
MEMORY = "return performance.memory ? performance.memory.usedJSHeapSize : 0"


def open_report(path: Path) -> dict[str, float]:
    """Seconds until a fresh browser has drawn the page with its rollouts, and of a first and a second search in it."""
    with Browser(timeout_s=120.0) as browser:
        began = perf_counter()
        browser.open(path)
        browser.wait(READY)
        open_s = perf_counter() - began
        first, second = (msgspec.convert(browser.run(SEARCH, word), tuple[float, float]) for word in ("carry", "first"))
        heap = msgspec.convert(browser.run(MEMORY), float, strict=False)
        errors = float(len(browser.messages()))
    found = {"search_s": first[0], "next_search_s": second[0], "found": first[1]}
    return {"open_s": open_s, **found, "console_messages": errors, "heap_mb": heap / 1e6}


def draw_pages(path: Path, folder: Path) -> None:
    """Write pictures of the page for the documentation: its top, where the time went, and the rollouts."""
    folder.mkdir(parents=True, exist_ok=True)
    with Browser(1280, 1180) as browser:
        browser.open(path)
        browser.wait(READY)
        browser.run("const order = document.getElementById('rollout-order'); order.value = 'versions'")
        browser.run("document.getElementById('rollout-order').dispatchEvent(new Event('change'))")
        browser.run("scrollTo(0, 0)")
        (folder / "report.png").write_bytes(browser.picture())
        # the bar at the top would cover what is below the view
        browser.run("document.querySelector('.top').style.position = 'static'")
        for name in ("time", "rollouts"):
            (folder / f"report-{name}.png").write_bytes(browser.picture(f"#{name}", height=1000))


def measure_page(paths: RunPaths, megabytes: float, rounds: int) -> dict[str, float]:
    """Write the page of a run, then open it so many times."""
    began = perf_counter()
    written = write_report(paths, megabytes=megabytes, predicts=False)
    result = {
        "write_s": perf_counter() - began,
        "page_mb": written.num_bytes / 1e6,
        "rollouts_shown": float(written.sample.num_rollouts),
        "groups_in_journal": float(written.sample.kept_groups),
    }
    if missing_browser():
        return result
    opened = [open_report(written.path) for _ in range(rounds)]
    return result | {name: statistics.median(one[name] for one in opened) for name in opened[0]}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench report", description=__doc__)
    size = SyntheticSize()
    parser.add_argument("--steps", type=int, default=size.steps)
    parser.add_argument("--groups", type=int, default=size.groups, help="of a step, 8 rollouts each")
    parser.add_argument("--rounds", type=int, default=3, help="how often the page is opened; the medians are printed")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES, help="of the page at most")
    parser.add_argument("--root", type=Path, help="where the run is written and kept (default: a folder that is removed)")
    parser.add_argument("--run", type=Path, help="the folder of a run to take instead of a synthetic one")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="with --run: write pictures of its page, measure nothing"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    size = SyntheticSize(steps=args.steps, groups=args.groups)
    if args.run and args.pictures:
        draw_pages(write_report(RunPaths(args.run)).path, args.pictures)
        return 0
    with TemporaryDirectory(prefix="prolong-report-") as scratch:
        folder = args.run or (args.root or Path(scratch)) / "synthetic"
        began = perf_counter()
        paths = RunPaths(folder) if folder.exists() else write_synthetic_run(folder, size)
        result = {"bench": "report", "steps": size.steps, "rollouts": size.rollouts, "make_s": perf_counter() - began}
        result |= measure_page(paths, args.megabytes, args.rounds)
        result["browser"] = f"{missing_browser()} is not installed" if missing_browser() else "chromium, headless"
    report(result, as_json=args.json)
    return 0
