# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stops a command: raised where it may be, kept until then, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

import drgn_slabtype
from drgn_slabtype import cli
from drgn_slabtype.signals import (
    SIGNALS,
    Interrupted,
    Interruptions,
    interruptible,
    poll,
    reason_of,
    repeat,
)


def send(number: int = signal.SIGTERM) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """The time, in a list of one."""
    now = [0.0]
    monkeypatch.setattr(import_module("drgn_slabtype.signals").time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def own() -> Iterator[List[int]]:
    """Handlers as a program of its own has them, and what arrives there."""
    arrived: List[int] = []
    before = [signal.signal(number, lambda n, frame: arrived.append(n)) for number in SIGNALS]
    yield arrived
    for number, handler in zip(SIGNALS, before):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_raises_where_it_may(own: List[int], number: signal.Signals) -> None:
    with Interruptions(at_once=False) as interruptions:
        with pytest.raises(Interrupted) as caught, interruptible():
            send(number)
        assert reason_of(caught.value) == number.name
        assert (interruptions.signal, interruptions.reason) == (number, number.name)
    assert own == []


def test_waits_until_it_may(own: List[int]) -> None:
    with Interruptions(at_once=False):
        send()
        reached = False
        with pytest.raises(Interrupted), interruptible():
            reached = True
        assert not reached


def test_does_not_raise_after_it_was_caught(own: List[int]) -> None:
    with Interruptions(at_once=False):
        with pytest.raises(Interrupted) as caught, interruptible():
            send()
        reason_of(caught.value)
        with interruptible():
            poll()


def test_what_is_lost_is_raised_again(own: List[int]) -> None:
    class Careless:
        def __del__(self) -> None:
            send()

    def lose_and_poll() -> None:
        victim = Careless()
        del victim  # Python has nobody to tell of the exception
        poll()
        pytest.fail("it was forgotten")

    with Interruptions(at_once=False):
        with pytest.raises(Interrupted), interruptible():
            lose_and_poll()
        # Without a read of memory, at the end of what can be stopped.
        with pytest.raises(Interrupted), interruptible():
            pass


def test_what_is_lost_is_not_printed(own: List[int], capsys: pytest.CaptureFixture[str]) -> None:
    class Careless:
        def __init__(self, error: Any) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    told: List[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with Interruptions(at_once=False):
            Careless(Interrupted("SIGTERM"))
            assert told == []
            Careless(ValueError())
            assert [type(one.exc_value) for one in told] == [ValueError]
    finally:
        sys.unraisablehook = hook


def test_everything_is_as_it_was(own: List[int]) -> None:
    def state() -> List[Any]:
        pipe = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(pipe)
        numbers = (*SIGNALS, signal.SIGALRM)
        return [sys.unraisablehook, pipe, *map(signal.getsignal, numbers)]

    before, threads = state(), threading.active_count()
    for at_once in (False, True):
        with Interruptions(at_once) as interruptions:
            interruptions.limit(1000)
            assert state() != before
        assert state() == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(10)
    assert threading.active_count() <= threads
    send()
    assert own == [signal.SIGTERM]


def test_what_is_ignored_stays_ignored(own: List[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruptions(at_once=False) as interruptions, interruptible():
        send(signal.SIGHUP)
    assert interruptions.reason is None


def test_no_handlers_in_another_thread(own: List[int]) -> None:
    seen: List[bool] = []

    def command() -> None:
        with Interruptions(at_once=True) as interruptions:
            interruptions.limit(1)
            seen.append(signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN))
            seen.append(signal.getitimer(signal.ITIMER_REAL)[0] == 0)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=command)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert seen == [False, True]


def test_second_one_at_the_prompt_is_the_programs(own: List[int], clock: List[float]) -> None:
    with Interruptions(at_once=False):
        with pytest.raises(Interrupted) as caught, interruptible():
            send()
        reason_of(caught.value)
        clock[0] += 0.05
        send()
        assert own == []
        clock[0] += 0.2
        send()
        assert own == [signal.SIGTERM]


def test_signal_after_the_time_is_no_second_one(own: List[int], clock: List[float]) -> None:
    with Interruptions(at_once=False) as interruptions:
        with pytest.raises(Interrupted) as caught, interruptible():
            send(signal.SIGALRM)
        assert reason_of(caught.value) == "time"
        clock[0] += 1
        with interruptible():
            send()
        assert (interruptions.reason, interruptions.signal) == ("time", signal.SIGTERM)
    assert own == []


def test_a_session_ends_after_the_command_if_it_was_to(own: List[int]) -> None:
    for number in (None, signal.SIGINT):
        repeat(number)
    assert own == []
    repeat(signal.SIGHUP)
    assert own == [signal.SIGHUP]


def test_ctrl_c_in_a_library_is_pythons() -> None:
    assert reason_of(KeyboardInterrupt()) == "SIGINT"
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise KeyboardInterrupt
    poll()


# Ctrl-C while the command line is imported, of which its first module is only one.
_EARLY = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it

class Finder:
    def find_spec(self, name, *more):
        if name == "drgn_slabtype." + sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
import drgn_slabtype.__main__ as entries
getattr(entries, sys.argv[2])()
"""


@pytest.mark.parametrize("entry", [("cli", "main"), ("kernelci", "kernel_ci")])
def test_ctrl_c_during_the_imports_leaves_no_traceback(entry: Tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EARLY, *entry], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_nothing_is_imported_before_the_command_line_is_safe() -> None:
    # What Python itself has imported by then, it had to.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(drgn_slabtype.__file__).parents[1])!r}); "
        "before = {*sys.modules}; import drgn_slabtype.__main__; print(*{*sys.modules} - before)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    own = {"drgn_slabtype", "drgn_slabtype.__main__"}
    assert own <= {*done.stdout.split()} <= {*own, "__future__", "types"}


def test_what_judges_nothing_is_stopped_before_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("drgn_slabtype.answers.explanations.explain", stop)
        assert cli.main(["explain"]) == 3
    assert capsys.readouterr() == (
        "",
        "drgn-slabtype explain: interrupted before there was an answer\n",
    )
    monkeypatch.setattr("drgn_slabtype.report.output.write_text", stop)
    assert cli.main(["explain"]) == 3
    assert capsys.readouterr().err == (
        "drgn-slabtype explain: interrupted while the answer was written\n"
    )
