# SPDX-License-Identifier: LGPL-2.1-or-later

"""The command line of the lab."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import List, Optional, Sequence

from tabulate import tabulate

from . import (
    breakage,
    build,
    cache,
    crash,
    dumps,
    kasanreports,
    library,
    matrix,
    recipes,
    report,
    trials,
)
from .architectures import ARCHITECTURES, HERE
from .boot import running
from .breakage import break_kernel, break_some
from .cases import CASES
from .comparison import compare
from .debian import Archive
from .dumps import Dump
from .errors import LabError
from .guests import GUESTS, fitted, guests_for, suits
from .kdump import FORMATS
from .kernels import KERNELS
from .matrix import Matrix
from .packages import install
from .process import run_python, say
from .trials import TRIALS

__all__ = ("main",)


def _list(arguments: argparse.Namespace) -> int:
    rows = []
    for kernel in KERNELS.values():
        found = library.present(kernel)
        origin = "Debian" if kernel.stock else "built"
        release = found.release if found else "-"
        rows.append((kernel.name, kernel.architecture, origin, release, kernel.about))
    headers = ("KERNEL", "ARCHITECTURE", "FROM", "IN THE CACHE", "ABOUT")
    print(tabulate(rows, headers, tablefmt="plain"))
    print()
    about = [(guest.name, guest.about) for guest in GUESTS.values()]
    print(tabulate(about, ("GUEST", "ABOUT"), tablefmt="plain"))
    return 0


def _get(arguments: argparse.Namespace) -> int:
    archive = Archive()
    for name in arguments.kernels or KERNELS:
        files = library.get(KERNELS[name], archive, refresh=arguments.refresh)
        print(f"{name} {files.release} {files.vmlinux or 'without debug symbols'}")
    return 0


def _take(arguments: argparse.Namespace) -> List[Dump]:
    kernel = KERNELS[arguments.kernel]
    files = library.get(kernel, Archive())
    guest = fitted(GUESTS[arguments.guest], kernel)
    if not suits(guest, kernel):
        raise LabError(f"guest {guest.name} has no meaning for {kernel.name}")
    install(ARCHITECTURES[HERE].packages, log=cache.log_file("packages"))
    count = arguments.pauses if guest.busy else 1
    taken = None if arguments.again else dumps.present(files, guest, count)
    return taken or dumps.take(files, guest, count=count, seed=arguments.seed)


def _dump(arguments: argparse.Namespace) -> int:
    for dump in _take(arguments):
        print(f"{dump.name} {dump.folder}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    run = Matrix()
    begin = time.monotonic()
    run.results = [compare(dump, arguments.format) for dump in _take(arguments)]
    run.seconds = time.monotonic() - begin
    return _finish(run, arguments.json)


def _recipes(arguments: argparse.Namespace) -> int:
    run = Matrix()
    begin = time.monotonic()
    run.recipes = [recipes.apply(_take(arguments)[0])]
    run.seconds = time.monotonic() - begin
    return _finish(run, arguments.json)


def _pages(arguments: argparse.Namespace) -> int:
    pages, wrong = 0, []
    taken = _take(arguments)
    if not arguments.again and any(dump.manifest["dump_page"] for dump in taken):
        arguments.again = True
        taken = _take(arguments)
    for dump in taken:
        command = ["-m", "lab.pagewords", "compare", str(dump.folder), str(dump.vmcore)]
        answer = json.loads(run_python(command).stdout)
        print(f"{dump.name}: {answer['pages']} pages compared, {len(answer['differ'])} differ")
        pages += answer["pages"]
        wrong += answer["differ"]
        if not answer["pages"]:
            print(f"{dump.name}: {dump.manifest['dump_page']}")
    for line in wrong:
        print(line)
    return 0 if pages and not wrong else 1


def _reports(arguments: argparse.Namespace) -> int:
    kernel = KERNELS[arguments.kernel]
    files = library.get(kernel, Archive())
    install(ARCHITECTURES[HERE].packages, log=cache.log_file("packages"))
    guest = fitted(GUESTS[arguments.guest], kernel)
    found = kasanreports.reported(files, guest, arguments.keep)
    print(
        f"{kernel.name}/{arguments.guest}: {found['objects']} objects and {found['events']} events"
        f" compared, {len(found['differ'])} differ"
    )
    for line in found["differ"]:
        print(line)
    return 0 if found["events"] and not found["differ"] else 1


def _break(arguments: argparse.Namespace) -> int:
    run = Matrix()
    begin = time.monotonic()
    boots = [letters.replace("-", "") for letters in arguments.letters]
    for name in arguments.kernels or [row.name for row in KERNELS.values() if row.broken]:
        files = library.get(KERNELS[name], Archive())
        run.broken += break_kernel(files, boots, CASES.pick(arguments.case), arguments.keep)
    run.seconds = time.monotonic() - begin
    return _finish(run, arguments.json, arguments.markdown)


def _boot(arguments: argparse.Namespace) -> int:
    kernel = KERNELS[arguments.kernel]
    files = library.get(kernel, Archive())
    install(ARCHITECTURES[HERE].packages, log=cache.log_file("packages"))
    with running(files, fitted(GUESTS[arguments.guest], kernel)) as guest:
        guest.stop()
        symbols = f" -s {files.vmlinux}" if files.vmlinux else ""
        print(f"drgn-slabtype check --qemu {guest.qmp_path}{symbols}", flush=True)
        say("the guest is stopped; press Ctrl-C to end it")
        try:
            while guest.process.poll() is None:
                time.sleep(0.5)
        except KeyboardInterrupt:
            pass
    return 0


def _matrix(arguments: argparse.Namespace) -> int:
    jobs = matrix.ci_jobs() if arguments.ci else matrix.full_jobs(arguments.kernel, arguments.guest)
    install(ARCHITECTURES[HERE].packages, log=cache.log_file("packages"))
    begin, budget = time.monotonic(), _seconds(arguments.budget, 48 if arguments.ci else None)
    run = matrix.run(
        jobs,
        Archive(),
        budget_seconds=budget,
        recipes_on=("plain",) if arguments.ci else recipes.GUESTS,
        recipes_seconds=_seconds(arguments.recipes, 8 if arguments.ci else None),
        tidy=arguments.tidy,
    )
    if arguments.ci:
        run.broken += break_some(budget - (time.monotonic() - begin))
    elif not (arguments.kernel or arguments.guest):
        _break_all(run)
    # A guest that is asked for says which dumps are wanted, and nothing else is.
    if not arguments.ci and not arguments.guest:
        left = budget - (time.monotonic() - begin)
        matrix.run_trials(run, arguments.kernel, budget_seconds=left)
    run.seconds = time.monotonic() - begin
    return _finish(run, arguments.json, arguments.markdown)


def _trial(arguments: argparse.Namespace) -> int:
    trial = TRIALS[arguments.command]
    install(ARCHITECTURES[HERE].packages, log=cache.log_file("packages"))
    journal = trials.journal_of(trial, arguments.journal)
    if arguments.again:
        journal.clear()
    count = trial.amount if arguments.count is None else arguments.count
    seconds = _seconds(arguments.budget, None)
    try:
        trials.perform(trial, journal, arguments.kernel, count, budget_seconds=seconds)
    finally:
        found = trials.outcomes(trial, journal)
        if arguments.json is not None:
            trials.write(found, arguments.json)
        print(trials.table(found))
    return 0 if all(one.good for one in found) else 1


def _break_all(run: Matrix) -> None:
    for kernel in filter(lambda row: row.broken, KERNELS.values()):
        try:
            files = library.get(kernel, Archive())
            run.broken += break_kernel(files, (), list(CASES.values()))
        except LabError as error:
            say(f"{kernel.name}: {error}")
            run.failed[f"{kernel.name}, broken"] = str(error)


def _seconds(minutes: Optional[float], default: Optional[float]) -> float:
    wanted = default if minutes is None else minutes
    return float("inf") if wanted is None else 60 * wanted


def _table(arguments: argparse.Namespace) -> int:
    records = [json.loads(file.read_text()) for file in arguments.files]
    return _finish(Matrix.of_records(records), arguments.json, arguments.markdown)


def _finish(run: Matrix, path: Optional[Path], page: Optional[Path] = None) -> int:
    if path is not None:
        path.write_text(json.dumps(run.record(), indent=1) + "\n")
    if page is not None:
        # What was broken on purpose has a page of its own.
        only_broken = run.broken and not run.results
        page.write_text(breakage.markdown(run.broken) if only_broken else report.markdown(run))
    print(report.table(run))
    return 0 if run.good else 1


def _prune(arguments: argparse.Namespace) -> int:
    keep = set()
    for kernel in KERNELS.values():
        files = library.present(kernel)
        if files is not None:
            for guest in guests_for(kernel):
                keep.add(dumps.load(files, guest).folder.name)
    for folder in (cache.root() / "dumps").glob("*/*"):
        name = folder.name
        # Dumps of a busy guest are named like the first one, with a number.
        if name not in keep and name.rpartition("-")[0] not in keep:
            say(f"deleting {folder}")
            shutil.rmtree(folder)
    build.drop_trees()
    return 0


def _add_guest_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernel", metavar="KERNEL")
    parser.add_argument("--guest", default="plain", help="how to boot it (default: plain)")
    parser.add_argument("--pauses", type=int, default=5, help="how often a busy guest is stopped")
    parser.add_argument("--seed", type=int, default=1, help="for the moments at which it is")
    parser.add_argument("--again", action="store_true", help="even if there is such a dump")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables as Markdown"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmlab",
        description="Boot real kernels, dump them and compare drgn-slabtype with them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("list", help="show the tables of kernels and guests")
    one.set_defaults(run=_list)

    one = commands.add_parser("get", help="fetch or build kernels; all of them without a name")
    one.add_argument("kernels", metavar="KERNEL", nargs="*")
    one.add_argument("--refresh", action="store_true", help="take a newer version if there is one")
    one.set_defaults(run=_get)

    one = commands.add_parser("boot", help="boot a kernel and leave it stopped for a live check")
    one.add_argument("kernel", metavar="KERNEL")
    one.add_argument("--guest", default="busy", help="how to boot it (default: busy)")
    one.set_defaults(run=_boot)

    one = commands.add_parser("dump", help="boot a kernel, make it busy, stop and dump it")
    _add_guest_arguments(one)
    one.set_defaults(run=_dump)

    one = commands.add_parser("check", help="dump a kernel and compare drgn-slabtype with it")
    _add_guest_arguments(one)
    one.add_argument(
        "--format", choices=("elf", *FORMATS, *crash.FORMATS), default="elf", help="of the dump"
    )
    one.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    one.set_defaults(run=_check)

    one = commands.add_parser("recipes", help="dump a kernel and damage it in every known way")
    _add_guest_arguments(one)
    one.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    one.set_defaults(run=_recipes)

    one = commands.add_parser("break", help="break a kernel on purpose and see what is found")
    one.add_argument("kernels", metavar="KERNEL", nargs="*", help="all that are made for it")
    one.add_argument("--case", action="append", default=[], help="only this case")
    text = "only booted with these of slub_debug, - for none of them"
    one.add_argument("--letters", action="append", default=[], help=text)
    one.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the dumps there")
    _add_outputs(one)
    one.set_defaults(run=_break)

    one = commands.add_parser("pages", help="compare single pages with what dump_page() prints")
    _add_guest_arguments(one)
    one.set_defaults(run=_pages)

    one = commands.add_parser("reports", help="compare objects with what KASAN reports of them")
    one.add_argument("kernel", metavar="KERNEL")
    one.add_argument("--guest", default="busy", help="how to boot it (default: busy)")
    text = "leave a capture there, and what was printed"
    one.add_argument("--keep", type=Path, metavar="FOLDER", help=text)
    one.set_defaults(run=_reports)

    one = commands.add_parser("matrix", help="check every kernel with every guest")
    which = one.add_mutually_exclusive_group()
    which.add_argument(
        "--ci",
        action="store_true",
        help="each kernel that CI has the time for, plain and in one guest besides",
    )
    which.add_argument("--full", action="store_true", help="everything (default)")
    for name in ("kernel", "guest"):
        text = f"only this {name} (with --full)"
        one.add_argument(f"--{name}", action="append", default=[], help=text)
    one.add_argument("--budget", type=float, metavar="MINUTES", help="begin nothing after that")
    text = "of which so many are kept for recipes (8 with --ci)"
    one.add_argument("--recipes", type=float, metavar="MINUTES", help=text)
    text = "delete the dumps that are right; all of --full take 100 GB"
    one.add_argument("--tidy", action="store_true", help=text)
    _add_outputs(one)
    one.set_defaults(run=_matrix)

    for trial in TRIALS.values():
        one = commands.add_parser(trial.name, help=f"{trial.about}; goes on where it was ended")
        text = f"only this kernel (default: {', '.join(trial.kernels)})"
        one.add_argument("--kernel", action="append", default=[], help=text)
        text = f"how much of it for each kernel (default: {trial.amount})"
        one.add_argument("--count", type=int, metavar="N", help=text)
        one.add_argument("--budget", type=float, metavar="MINUTES", help="begin nothing after that")
        text = "where a line is written for each (default: in the cache)"
        one.add_argument("--journal", type=Path, metavar="FILE", help=text)
        one.add_argument("--again", action="store_true", help="begin anew")
        one.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
        one.set_defaults(run=_trial)

    one = commands.add_parser("table", help="join the results of several runs of the matrix")
    one.add_argument("files", metavar="JSON", type=Path, nargs="+", help="the last one counts")
    _add_outputs(one)
    one.set_defaults(run=_table)

    one = commands.add_parser("prune", help="delete dumps of former kernels and all build trees")
    one.set_defaults(run=_prune)
    return parser


def _interrupt(number: int, frame: Optional[FrameType]) -> None:
    raise KeyboardInterrupt


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    Run a command.

    :return: 0 if all is right, 1 if a dump shows something, 2 for an error.
    """
    options = _parser().parse_args(arguments)
    # Ended from outside, guests are still cleaned up.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status: int = options.run(options)
    except LabError as error:
        print(f"vmlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vmlab: interrupted", file=sys.stderr)
        return 130
    return status
