"""NCCL's broadcast for the weights plane, called in the library itself and not through torch's process groups.

torch's ProcessGroupNCCL makes communicators without a deadline, and its watchdog ends the whole process when a broadcast
outlasts one: a stopped actor would take the learner with it. Here a communicator is non-blocking: each call returns at once,
the caller asks for its state until a deadline, and then aborts. Nothing is shared with torch's own groups.

NCCL names its errors by number; the functions and constants below are those of nccl.h, the same since NCCL 2.18.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import torch

log = logging.getLogger(__name__)

POLL_S = 0.0005  # how soon the end of a broadcast is noticed
WATCH_S = 0.2  # how soon a member that gave up is noticed
ABORT_S = 2.0  # how long `abort` waits for NCCL, before it leaves it to a thread
# of the GPU's more than a hundred multiprocessors: the others go on with training
MAX_CTAS = 8
_UNIQUE_ID_BYTES = 128
_SUCCESS, _IN_PROGRESS = 0, 7
_INT8 = 0
_MAGIC, _UNDEFINED = 0xCAFEBEEF, -(1 << 31)
_CONFIG_VERSION = 21_800  # of the fields below; a newer NCCL gives those that it added their defaults


class NcclConfig(ctypes.Structure):
    """ncclConfig_t of NCCL 2.18."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("blocking", ctypes.c_int),
        ("cgaClusterSize", ctypes.c_int),
        ("minCTAs", ctypes.c_int),
        ("maxCTAs", ctypes.c_int),
        ("netName", ctypes.c_char_p),
        ("splitShare", ctypes.c_int),
    )

    @classmethod
    def non_blocking(cls) -> NcclConfig:
        size = ctypes.sizeof(cls)
        return cls(size, _MAGIC, _CONFIG_VERSION, 0, _UNDEFINED, _UNDEFINED, MAX_CTAS, None, _UNDEFINED)


class UniqueId(ctypes.Structure):
    """ncclUniqueId: rank 0 draws one, and every rank of the communicator gives it."""

    _fields_ = (("internal", ctypes.c_char * _UNIQUE_ID_BYTES),)


class Nccl(Protocol):
    """The functions of NCCL that a broadcast needs. Calls raise RuntimeError with NCCL's reason; none waits for a peer."""

    version: int

    def unique_id(self) -> bytes: ...

    def begin_communicator(self, world_size: int, unique_id: bytes, rank: int) -> int:
        """Begin to make a communicator on the thread's current GPU; returns its handle."""
        ...

    def begin_broadcast(self, handle: int, flat: torch.Tensor) -> None:
        """Begin to put the broadcast of `flat` from rank 0 on the thread's current stream."""
        ...

    def in_progress(self, handle: int) -> bool:
        """Whether the call begun last still goes on."""
        ...

    def abort(self, handle: int) -> None:
        """Stop everything that the communicator does, and free it. The handle is of no use afterwards."""
        ...


class NcclLibrary:
    """`Nccl` in libnccl.so."""

    def __init__(self, name: str) -> None:
        """Raises OSError when there is no such library, AttributeError when it lacks a function."""
        self._lib = ctypes.CDLL(name)
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._declare("ncclGetVersion", ctypes.POINTER(number))
        self._declare("ncclGetUniqueId", ctypes.POINTER(UniqueId))
        config = ctypes.POINTER(NcclConfig)
        self._declare("ncclCommInitRankConfig", ctypes.POINTER(pointer), number, UniqueId, number, config)
        self._declare("ncclBroadcast", pointer, pointer, ctypes.c_size_t, number, number, pointer, pointer)
        self._declare("ncclCommGetAsyncError", pointer, ctypes.POINTER(number))
        self._declare("ncclCommAbort", pointer)
        self._lib.ncclGetErrorString.argtypes, self._lib.ncclGetErrorString.restype = [number], ctypes.c_char_p
        self._lib.ncclGetLastError.argtypes, self._lib.ncclGetLastError.restype = [pointer], ctypes.c_char_p
        version = number()
        self._call("ncclGetVersion", None, ctypes.byref(version))
        self.version = version.value

    def _declare(self, function: str, *arguments: type) -> None:
        declared = getattr(self._lib, function)
        declared.argtypes, declared.restype = list(arguments), ctypes.c_int

    def _call(self, function: str, handle: int | None, *arguments: object) -> None:
        self._check(getattr(self._lib, function)(*arguments), function, handle)

    def _check(self, result: int, function: str, handle: int | None) -> None:
        if result in (_SUCCESS, _IN_PROGRESS):
            return
        reason = (self._lib.ncclGetErrorString(result) or b"").decode(errors="replace")
        last = (self._lib.ncclGetLastError(handle) or b"").decode(errors="replace")
        raise RuntimeError(f"{function}: {reason} {last}".strip())

    def unique_id(self) -> bytes:
        drawn = UniqueId()
        self._call("ncclGetUniqueId", None, ctypes.byref(drawn))
        return ctypes.string_at(ctypes.byref(drawn), _UNIQUE_ID_BYTES)

    def begin_communicator(self, world_size: int, unique_id: bytes, rank: int) -> int:
        handle, config = ctypes.c_void_p(), NcclConfig.non_blocking()
        given = UniqueId.from_buffer_copy(unique_id)
        self._call("ncclCommInitRankConfig", None, ctypes.byref(handle), world_size, given, rank, ctypes.byref(config))
        assert handle.value is not None, "NCCL gives a handle at once"
        return handle.value

    def begin_broadcast(self, handle: int, flat: torch.Tensor) -> None:
        address, stream = flat.data_ptr(), torch.cuda.current_stream().cuda_stream
        self._call("ncclBroadcast", handle, address, address, flat.numel(), _INT8, 0, handle, stream)

    def in_progress(self, handle: int) -> bool:
        state = ctypes.c_int()
        self._call("ncclCommGetAsyncError", handle, handle, ctypes.byref(state))
        self._check(state.value, "NCCL", handle)
        return state.value == _IN_PROGRESS

    def abort(self, handle: int) -> None:
        self._call("ncclCommAbort", None, handle)


@functools.cache
def nccl_library() -> Nccl | None:
    """NCCL as torch loaded it; None where torch has none."""
    name = "librccl.so.1" if torch.version.hip else "libnccl.so.2"
    try:
        return NcclLibrary(name)
    except (OSError, AttributeError, RuntimeError) as error:
        log.warning("weights do not travel from GPU to GPU, but through the hosts' memory: %s (%s)", name, error)
        return None


def recorded_event() -> Callable[[], bool]:
    """Mark this point of the thread's current stream; the result says whether the GPU has come there."""
    event = torch.cuda.Event()
    event.record()
    return event.query


class NcclChannel:
    """A communicator of the ranks of one epoch. All calls but `abort` come from one thread, with its own GPU and stream."""

    def __init__(self, library: Nccl, device: torch.device, watch: Callable[[], None] = lambda: None) -> None:
        """`watch` is called now and then while a peer is waited for; it raises RuntimeError if that is in vain."""
        self.device = device  # where the tensors lie
        self._library, self._watch = library, watch
        self._handle: int | None = None
        self._flat: torch.Tensor | None = None  # of the broadcast under way
        self._left = threading.Event()
        # of the handle: NCCL must not be asked for the state of what another thread has freed
        self._lock = threading.Lock()

    def connect(self, unique_id: bytes, rank: int, world_size: int, timeout_s: float) -> None:
        """Make the communicator together with the other ranks. Raises RuntimeError; then `abort`."""
        self._handle = self._library.begin_communicator(world_size, unique_id, rank)
        self._settle("the other ranks did not connect", monotonic() + timeout_s, timeout_s)

    def broadcast(self, flat: torch.Tensor, timeout_s: float) -> None:
        """Send `flat` (rank 0) or receive into it; returns when the GPU has done it. Raises RuntimeError; then `abort`."""
        deadline_s = monotonic() + timeout_s
        self._flat = flat
        with self._lock:
            self._library.begin_broadcast(self._connected(), flat)
        # the kernel is on the stream only once the call has settled
        self._settle("the broadcast did not begin", deadline_s, timeout_s)
        self._settle("the broadcast did not end", deadline_s, timeout_s, recorded_event())
        self._flat = None

    def _settle(self, what: str, deadline_s: float, timeout_s: float, reached: Callable[[], bool] = lambda: True) -> None:
        """Wait until no call is in progress and `reached` is true."""
        watched_s = monotonic()
        while True:
            with self._lock:
                in_progress = self._library.in_progress(self._connected())
            if not in_progress and reached():
                return
            now_s = monotonic()
            if now_s > deadline_s:
                raise RuntimeError(f"NCCL: {what} within {timeout_s:g} s")
            if now_s > watched_s + WATCH_S:
                watched_s = now_s
                self._watch()
            self._left.wait(POLL_S)

    def _connected(self) -> int:
        """The handle; the lock is held."""
        if self._handle is None:
            raise RuntimeError("the group was left")
        return self._handle

    def abort(self) -> None:
        """Free the communicator, whatever it does. Returns within `ABORT_S`; NCCL may need longer, and is waited for beside."""
        with self._lock:
            handle, self._handle = self._handle, None
        self._left.set()
        if handle is None:
            return
        # the thread keeps the tensor until no kernel can write into it
        thread = threading.Thread(target=_abort, args=(self._library, handle, self._flat), name="weights-abort", daemon=True)
        self._flat = None
        thread.start()
        thread.join(ABORT_S)
        if thread.is_alive():
            log.warning("NCCL has not aborted a broadcast of weights within %g s; it goes on beside", ABORT_S)


def _abort(library: Nccl, handle: int, flat: torch.Tensor | None) -> None:
    try:
        library.abort(handle)
    except RuntimeError as error:
        log.warning("a broken communicator of the weights plane could not be freed: %s", error)
    del flat
