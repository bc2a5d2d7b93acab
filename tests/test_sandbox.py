"""Programs that a model wrote: whatever they try, they are stopped, and nothing outside has changed."""

import os
import socket
import struct
import threading

import pytest

from drafter.evaluation.rewards import confine, sandbox
from drafter.evaluation.rewards.sandbox import Limits, require_sandbox, run, run_all

FORBIDDEN = "did what is forbidden"
OFFENCES = {
    "fork": "import os\nos.fork()",
    "thread": "import threading\nthreading.Thread(target=print).start()",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "socket": "import socket\nsocket.socket()",
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "write": "open('{victim}', 'w')",
    "append": "open('{victim}', 'a')",
    "new file": "open('{victim}.new', 'x')",
    "file in its own folder": "open('here', 'w')",
    "remove": "import os\nos.remove('{victim}')",
    "rename": "import os\nos.rename('{victim}', '{victim}.new')",
    "truncate": "import os\nos.truncate('{victim}', 0)",
    "mode": "import os\nos.chmod('{victim}', 0)",
    "folder": "import os\nos.mkdir('{victim}.new')",
    "link": "import os\nos.symlink('{victim}', '{victim}.new')",
    "temporary": "import tempfile\ntempfile.NamedTemporaryFile()",
    "signal to the parent": "import os\nos.kill(os.getppid(), 9)",
    "signal to all": "import os\nos.kill(-1, 9)",
    "own memory as a file": "open('/proc/self/mem', 'r+b')",
}
REFUSED = {  # by the kernel, with an error that the program may catch
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "processes": "import multiprocessing\nmultiprocessing.Pool(2)",
    "more memory than allowed": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "leaving": "import os\nos.chroot('/')",
}
FAILURES = {
    "hang": ("while True: pass", "took longer than 0.6 seconds"),
    "sleep": ("import time\ntime.sleep(100)", "took longer than 0.6 seconds"),
    "deaf": (
        "import signal, time\nfor one in (15, 2, 1): signal.signal(one, signal.SIG_IGN)\ntime.sleep(100)",
        "took longer than 0.6 seconds",
    ),
    "memory": ("x = bytearray(10**10)", "MemoryError"),
    "early exit": ("raise SystemExit(0)", "SystemExit: 0"),
    "hard exit": ("import os\nos._exit(0)", "ended without a word"),
    "crash": ("import ctypes\nctypes.string_at(0)", "ended without a word"),
    "noise where the verdict goes": (
        "import os\nfor one in range(3, 64):\n    try: os.write(one, b'x' * 10**6)\n    except OSError: pass",
        "xxx",
    ),
    "wrong": ("assert 1 + 1 == 3, 'sums'", "AssertionError: sums"),
    "no Python": ("def f(:", "SyntaxError"),
    "asks": ("input()", "EOFError"),
    "other packages": ("import torch", "ModuleNotFoundError"),
}
FINE = {
    "nothing": "",
    "sums": "assert sum(range(10)) == 45",
    "library": "import random, re, json, decimal, statistics, doctest\nassert statistics.mean([1, 2]) == 1.5",
    "prints": "print('x' * 10**6)",
    "reads": "import os\nassert open(os.__file__).read()",
    "sleeps a little": "import time\ntime.sleep(0.01)",
}


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("as it was")
    return path


@pytest.mark.parametrize("offence", OFFENCES)
def test_an_offence_ends_the_program(offence, victim):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        program = OFFENCES[offence].format(victim=victim, port=server.getsockname()[1])
        found = run(f"try:\n    {program.replace(chr(10), chr(10) + '    ')}\nexcept BaseException:\n    pass")
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not found.passed
    assert found.reason.startswith(FORBIDDEN)
    assert victim.read_text() == "as it was"
    assert os.stat(victim).st_mode & 0o777
    assert list(victim.parent.iterdir()) == [victim]


@pytest.mark.parametrize("attempt", REFUSED)
def test_what_is_refused_raises(attempt):
    found = run(REFUSED[attempt])
    assert not found.passed
    assert "Error" in found.reason


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_are_told_in_a_few_words(failure):
    program, reason = FAILURES[failure]
    found = run(program, Limits(seconds=0.6 if "0.6" in reason else 10.0, megabytes=256))
    assert not found.passed
    assert found.reason.startswith(reason)
    assert len(found.reason) <= 400


@pytest.mark.parametrize("program", FINE.values(), ids=FINE)
def test_what_only_computes_passes(program):
    assert run(program, Limits(seconds=20.0)).passed


def test_a_program_that_hangs_leaves_no_process_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = children()
    run("import time\ntime.sleep(100)", Limits(seconds=0.5))
    assert children() <= before
    assert not list(tmp_path.iterdir())


def children():
    """Processes that run the confined script."""
    found = set()
    for each in os.listdir("/proc"):
        if each.isdigit():
            try:
                with open(f"/proc/{each}/cmdline", "rb") as file:
                    command = file.read()
                with open(f"/proc/{each}/status") as file:
                    mine = f"PPid:\t{os.getpid()}\n" in file.read()
            except OSError:
                continue
            if mine and b"confine.py" in command:
                found.add(each)
    return found


def test_programs_run_side_by_side_and_come_back_in_order(monkeypatch):
    programs = [f"assert {number} % 3" for number in range(5)]
    assert [one.passed for one in run_all(programs, Limits(seconds=20.0))] == [bool(n % 3) for n in range(5)]
    together = threading.Barrier(3)  # breaks unless three are at work at a time
    monkeypatch.setattr(sandbox, "run", lambda program, limits: (together.wait(20), program)[1])
    assert run_all(["a", "b", "c", "d", "e", "f"], Limits(together=3)) == ["a", "b", "c", "d", "e", "f"]


def test_another_machine_is_refused(monkeypatch):
    require_sandbox.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "riscv64")
        with pytest.raises(ValueError, match="this is linux on riscv64; choose a reward that runs none"):
            require_sandbox()
    with monkeypatch.context() as patch:
        patch.setattr(confine, "OFFENCES", {})
        require_sandbox()  # what this process holds is not what the script holds


@pytest.mark.parametrize("machine", confine.MACHINES)
def test_the_filter_decides_as_its_tables_say(machine):
    """The BPF program, interpreted here, over every system call number and the flags of every opening."""
    code = confine.system_call_filter(machine)
    lines = [struct.unpack_from("HBBI", code, 8 * at) for at in range(len(code) // 8)]
    column, architecture = confine.MACHINES[machine]

    def decide(number, flags=0, architecture=architecture):
        argument = [flags] * 6
        memory = struct.pack("iIQ6Q", number, architecture, 0, *argument)
        at, value = 0, 0
        while True:
            operation, yes, no, constant = lines[at]
            at += 1
            if operation == confine.LOAD:
                (value,) = struct.unpack_from("I", memory, constant)
            elif operation == confine.RETURN:
                return constant
            else:
                holds = {
                    confine.EQUAL: value == constant,
                    confine.AT_LEAST: value >= constant,
                    confine.ANY_BIT: bool(value & constant),
                }[operation]
                at += yes if holds else no

    allowed = {numbers[column] for numbers in confine.ALLOWED.values()}
    offences = {numbers[column] for numbers in confine.OFFENCES.values()}
    opening = {numbers[column] for numbers, _ in confine.READ_ONLY.values()}
    assert not (allowed & offences | allowed & opening | offences & opening) - {None}
    for number in range(512):
        verdict = confine.REFUSE
        if number in allowed | opening:
            verdict = confine.ALLOW
        elif number in offences:
            verdict = confine.KILL
        assert decide(number) == verdict
        assert decide(number, architecture=1) == confine.KILL
        assert decide(number | confine.FOREIGN) == confine.KILL
    for number in opening - {None}:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC | os.O_RDONLY):
            assert decide(number, flags) == confine.KILL
        assert decide(number, os.O_CLOEXEC | os.O_DIRECTORY) == confine.ALLOW


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"seconds": 0}, "sandbox.seconds=0"), ({"megabytes": 8}, "sandbox.megabytes=8"), ({"together": 0}, "together=0")],
)
def test_limits_that_are_none_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        Limits(**limits)
