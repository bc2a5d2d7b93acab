"""Run by the sandbox in a process of its own: give up all that a pure computation does not need, then run a program.

It is a script, started as `python -I -S -B confine.py`, and imports the standard library alone. The program comes by
standard input as JSON; what became of it goes to the pipe that standard output was, the program itself prints to
nowhere. A filter of system calls (seccomp, Linux) ends the process on the first attempt to start a process or a thread,
to open a socket, to signal another process, or to change a file, and refuses every call that is not listed below.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys

# System calls by number: x86_64, aarch64; None where the architecture has no such call.
READ_ONLY = {  # an offence if they ask for writing; where the flags stand among the arguments
    "open": ((2, None), 1),
    "openat": ((257, 56), 2),
}
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "poll": (7, None), "ppoll": (271, 73), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "ioctl": (16, 29),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "select": (23, None), "pselect6": (270, 72), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "fcntl": (72, 25), "getcwd": (79, 17), "readlink": (89, None),
    "readlinkat": (267, 78), "getdents64": (217, 61), "newfstatat": (262, 79), "statx": (332, 291),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "getrandom": (318, 278),
    "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
OFFENCES = {
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435), "execve": (59, 221),
    "execveat": (322, 281), "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "pidfd_send_signal": (424, 424),
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None),
    "mknodat": (259, 33), "chmod": (90, None), "fchmodat": (268, 53), "chown": (92, None), "lchown": (94, None),
    "fchownat": (260, 54), "utimensat": (280, 88), "setxattr": (188, 5), "ptrace": (101, 117),
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
FOREIGN = 0x40000000  # from here on x86_64 numbers are those of another ABI
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # SECCOMP_RET_ALLOW, _ERRNO with EPERM, _KILL_PROCESS
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in seccomp_data
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 1, 38, 22, 2


def system_call_filter(machine: str) -> bytes:
    """The filter as BPF: of each call, allowed, refused or fatal."""
    column, architecture = MACHINES[machine]

    def instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    lines = [
        instruction(LOAD, ARCHITECTURE),
        instruction(EQUAL, architecture, 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
        instruction(AT_LEAST, FOREIGN, 0, 1),
        instruction(RETURN, KILL),
    ]
    for verdict, calls in ((ALLOW, ALLOWED), (KILL, OFFENCES)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                lines += [instruction(EQUAL, number, 0, 1), instruction(RETURN, verdict)]
    for numbers, argument in READ_ONLY.values():
        if (number := numbers[column]) is not None:
            lines += [
                instruction(EQUAL, number, 0, 4),
                instruction(LOAD, ARGUMENTS + 8 * argument),
                instruction(ANY_BIT, WRITING, 0, 1),
                instruction(RETURN, KILL),
                instruction(RETURN, ALLOW),
            ]
    return b"".join([*lines, instruction(RETURN, REFUSE)])


class Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(seconds: int, megabytes: int) -> None:
    """Limit this process, for good: processor time, memory, no file grows, and the filter above.

    Raises:
        OSError: the kernel has no such filter.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    limits = {"CPU": seconds, "AS": megabytes << 20, "FSIZE": 0, "CORE": 0, "NOFILE": 64}
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    code = system_call_filter(platform.machine())
    program = Filter(len(code) // 8, code)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls (seccomp)")


def main() -> None:
    """Read what to run, confine, run it, tell."""
    order = json.loads(sys.stdin.buffer.read())
    pipe, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    confine(order["seconds"], order["megabytes"])
    try:
        exec(compile(order["program"], "<program>", "exec"), {"__name__": "__main__"})
        told = order["word"]  # only who came to the end of the program says the word
    except BaseException as error:  # noqa: BLE001  the program may raise anything, SystemExit included
        told = f"{type(error).__name__}: {error}"[:400]
    os.write(pipe, told.encode(errors="replace"))
    os._exit(0)


if __name__ == "__main__":
    main()
