"""Become another account, then execute a program: ``python -I become.py '<json options>' program args…``.

A program of its own because it runs between fork and exec, where a process with threads may do next
to nothing, and because of two things ``subprocess`` cannot do: keep one capability across the change
of user (for homes under a folder that only root may enter) and die with the parent. Standard library
only; it never imports the project.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import TypedDict

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 1 << 2
_CAP_DAC_OVERRIDE = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class Options(TypedDict):
    """``uid`` null: stay who we are. ``die_with_parent``: the parent's pid and the signal that ends the program.

    ``cwd`` is entered after the change, so that it proves reachability.
    """

    uid: int | None
    gid: int | None
    keep_dac_override: bool
    die_with_parent: tuple[int, int] | None
    cwd: str


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _change_user(options: Options, libc: ctypes.CDLL) -> None:
    uid, gid = options["uid"], options["gid"]
    if uid is None or gid is None:
        return
    if options["keep_dac_override"]:
        _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(KEEPCAPS)")
        # access(2) forgets capabilities for any user but root unless told not to, and initdb finds its
        # binaries with it.
        _check(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl(SECUREBITS)")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if options["keep_dac_override"]:
        # Only this capability survives: effective, permitted and inheritable, then ambient.
        mask = 1 << _CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
        data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        _check(libc.capset(header, data), "capset")
        _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0), "prctl(CAP_AMBIENT)")


def main() -> None:
    """Apply the options, then replace this process; the exit status 126 says that it was not possible."""
    options: Options = json.loads(sys.argv[1])
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        _change_user(options, libc)
        if options["die_with_parent"] is not None and sys.platform == "linux":
            parent, death = options["die_with_parent"]
            _check(libc.prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0), "prctl(PDEATHSIG)")
            if os.getppid() != parent:
                sys.exit(126)  # the parent was gone before we asked to be told
        os.chdir(options["cwd"])
        os.umask(0o077)
        os.execv(Path(sys.argv[2]), sys.argv[2:])  # noqa: S606 (exactly the point)
    except OSError as error:
        sys.stderr.write(f"cannot run {sys.argv[2]} as uid {os.geteuid()} in {options['cwd']}: {error}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
