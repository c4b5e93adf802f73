import os
import signal
import subprocess
import sys
import threading

import pytest

from metarl.runs.signals import STOP_SIGNALS, StopSignals, exit_status


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_a_signal_becomes_a_flag(name):
    number = getattr(signal, name)
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal_name == name
    assert exit_status(name) == 128 + number


def test_a_second_interrupt_interrupts():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested


def test_a_second_sigterm_leaves_time_to_save():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_the_handlers_come_back_also_after_an_error():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(ZeroDivisionError), StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        raise ZeroDivisionError
    assert {n: signal.getsignal(n) for n in before} == before


def test_it_does_nothing_off_the_main_thread():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_loop_in_another_process_leaves_after_sigterm():
    code = """
import time
from metarl.runs.signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.001)
print("saved", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 0


def requests_a_stop(number, handler):
    """Whether a signal requests a stop in a program that has a handler of it."""
    before = signal.signal(number, handler)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), number)
            return stop.requested
    finally:
        signal.signal(number, before)


def test_nohup_stays_in_force():
    assert not requests_a_stop(signal.SIGHUP, signal.SIG_IGN)


def test_a_programs_own_use_of_a_signal_stays():
    seen = []
    assert not requests_a_stop(signal.SIGUSR1, lambda number, _: seen.append(number))
    assert seen == [signal.SIGUSR1]


def test_windows_has_no_sighup(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.delattr(signal, "SIGPIPE")
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal_name == "SIGTERM"
    assert [exit_status(n) for n in ("SIGINT", "SIGHUP", "SIGPIPE")] == [130, 129, 141]
