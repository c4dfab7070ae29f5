"""Permissions apply to the tests even if root runs them."""

import ctypes
import os
from contextlib import contextmanager

CAPABILITY_VERSION = 0x20080522
"""`_LINUX_CAPABILITY_VERSION_3` of Linux's capability.h."""
READ_AND_WRITE_EVERYTHING = 1 << 1 | 1 << 2
"""`CAP_DAC_OVERRIDE` and `CAP_DAC_READ_SEARCH`, with which root ignores the permissions of files."""


@contextmanager
def permissions_apply():
    """Give up root's right to ignore the permissions of files while the block runs."""
    if os.geteuid() != 0:
        yield
        return
    system = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    capabilities = (ctypes.c_uint32 * 6)()
    assert system.capget(header, capabilities) == 0
    effective, *others = capabilities
    try:
        _set(system, header, effective & ~READ_AND_WRITE_EVERYTHING, others)
        yield
    finally:
        _set(system, header, effective, others)


def _set(system, header, effective, others):
    assert system.capset(header, (ctypes.c_uint32 * 6)(effective, *others)) == 0
