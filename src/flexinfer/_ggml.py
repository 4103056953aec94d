"""A literal ctypes mirror of the parts of ggml that a device needs, and the check that it fits.

Layouts follow ``ggml/include/ggml.h``, ``ggml/src/ggml-impl.h`` and
``ggml/src/ggml-backend-impl.h`` (``api_version`` 2) of the one pinned llama-cpp-python.
This is the only module that imports ctypes; `device` and `graph` are the only ones that use it
to follow pointers. `check_abi` must pass before anything here is handed to ggml.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
    c_void_p,
)
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexinfer.errors import BudgetError, UnsupportedError

GGML_VERSION = "0.25.3"
BACKEND_API_VERSION = 2
MAX_SRC = 10

STATUS_ALLOC_FAILED = -2
STATUS_FAILED = -1
STATUS_SUCCESS = 0
STATUS_ABORTED = 1

DEVICE_TYPE_CPU = 0
USAGE_COMPUTE = 2

PROT_NONE = 0
PROT_READ_WRITE = 3
MAP_PRIVATE_ANONYMOUS_NORESERVE = 0x02 | 0x20 | 0x4000


class Tensor(Structure):
    _fields_ = [
        ("type", c_int),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * MAX_SRC),
        ("view_src", c_void_p),
        ("view_offs", c_size_t),
        ("data", c_void_p),
        ("name", c_char * 64),
        ("extra", c_void_p),
        ("padding", c_char * 8),
    ]


class HashSet(Structure):
    _fields_ = [("size", c_size_t), ("used", c_void_p), ("keys", c_void_p)]


class CGraph(Structure):
    _fields_ = [
        ("size", c_int),
        ("n_nodes", c_int),
        ("n_leafs", c_int),
        ("nodes", c_void_p),
        ("grads", c_void_p),
        ("grad_accs", c_void_p),
        ("leafs", c_void_p),
        ("use_counts", c_void_p),
        ("visited_hash_set", HashSet),
        ("order", c_int),
        ("uid", c_uint64),
    ]


GetName = CFUNCTYPE(c_void_p, c_void_p)
AllocBuffer = CFUNCTYPE(c_void_p, c_void_p, c_size_t)
FreeBuffer = CFUNCTYPE(None, c_void_p)
GetBase = CFUNCTYPE(c_void_p, c_void_p)
InitTensor = CFUNCTYPE(c_int, c_void_p, c_void_p)
MemsetTensor = CFUNCTYPE(None, c_void_p, c_void_p, c_uint8, c_size_t, c_size_t)
AccessTensor = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_size_t, c_size_t)
Clear = CFUNCTYPE(None, c_void_p, c_uint8)
GraphCompute = CFUNCTYPE(c_int, c_void_p, c_void_p)
GraphOptimize = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)
GetMemory = CFUNCTYPE(None, c_void_p, POINTER(c_size_t), POINTER(c_size_t))
GetType = CFUNCTYPE(c_int, c_void_p)
GetProps = CFUNCTYPE(None, c_void_p, c_void_p)
InitBackend = CFUNCTYPE(c_void_p, c_void_p, c_char_p)
GetDeviceCount = CFUNCTYPE(c_size_t, c_void_p)
GetDevice = CFUNCTYPE(c_void_p, c_void_p, c_size_t)
GetProcAddress = CFUNCTYPE(c_void_p, c_void_p, c_char_p)
SetThreads = CFUNCTYPE(None, c_void_p, c_int)
SetAbortCallback = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)
OnAbort = CFUNCTYPE(None, c_char_p)


class BufferTypeInterface(Structure):
    _fields_ = [
        ("get_name", c_void_p),
        ("alloc_buffer", c_void_p),
        ("get_alignment", c_void_p),
        ("get_max_size", c_void_p),
        ("get_alloc_size", c_void_p),
        ("is_host", c_void_p),
    ]


class BufferType(Structure):
    _fields_ = [("iface", BufferTypeInterface), ("device", c_void_p), ("context", c_void_p)]


class BufferInterface(Structure):
    _fields_ = [
        ("free_buffer", c_void_p),
        ("get_base", c_void_p),
        ("init_tensor", c_void_p),
        ("memset_tensor", c_void_p),
        ("set_tensor", c_void_p),
        ("get_tensor", c_void_p),
        ("set_tensor_2d", c_void_p),
        ("get_tensor_2d", c_void_p),
        ("cpy_tensor", c_void_p),
        ("clear", c_void_p),
        ("reset", c_void_p),
    ]


class Buffer(Structure):
    _fields_ = [
        ("iface", BufferInterface),
        ("buft", c_void_p),
        ("context", c_void_p),
        ("size", c_size_t),
        ("usage", c_int),
    ]


class BackendInterface(Structure):
    _fields_ = [
        ("get_name", c_void_p),
        ("free", c_void_p),
        ("set_tensor_async", c_void_p),
        ("get_tensor_async", c_void_p),
        ("set_tensor_2d_async", c_void_p),
        ("get_tensor_2d_async", c_void_p),
        ("cpy_tensor_async", c_void_p),
        ("synchronize", c_void_p),
        ("graph_plan_create", c_void_p),
        ("graph_plan_free", c_void_p),
        ("graph_plan_update", c_void_p),
        ("graph_plan_compute", c_void_p),
        ("graph_compute", c_void_p),
        ("event_record", c_void_p),
        ("event_wait", c_void_p),
        ("graph_optimize", c_void_p),
    ]


class Backend(Structure):
    _fields_ = [
        ("guid", c_void_p),
        ("iface", BackendInterface),
        ("device", c_void_p),
        ("context", c_void_p),
    ]


class DeviceCaps(Structure):
    _fields_ = [
        ("async_", c_bool),
        ("host_buffer", c_bool),
        ("buffer_from_host_ptr", c_bool),
        ("events", c_bool),
        ("mmap_support", c_bool),
    ]


class DeviceProps(Structure):
    _fields_ = [
        ("name", c_void_p),
        ("description", c_void_p),
        ("memory_free", c_size_t),
        ("memory_total", c_size_t),
        ("type", c_int),
        ("device_id", c_void_p),
        ("caps", DeviceCaps),
    ]


class DeviceInterface(Structure):
    _fields_ = [
        ("get_name", c_void_p),
        ("get_description", c_void_p),
        ("get_memory", c_void_p),
        ("get_type", c_void_p),
        ("get_props", c_void_p),
        ("init_backend", c_void_p),
        ("get_buffer_type", c_void_p),
        ("get_host_buffer_type", c_void_p),
        ("buffer_from_host_ptr", c_void_p),
        ("supports_op", c_void_p),
        ("supports_buft", c_void_p),
        ("offload_op", c_void_p),
        ("event_new", c_void_p),
        ("event_free", c_void_p),
        ("event_synchronize", c_void_p),
    ]


class Device(Structure):
    _fields_ = [("iface", DeviceInterface), ("reg", c_void_p), ("context", c_void_p)]


class RegInterface(Structure):
    _fields_ = [
        ("get_name", c_void_p),
        ("get_device_count", c_void_p),
        ("get_device", c_void_p),
        ("get_proc_address", c_void_p),
    ]


class Reg(Structure):
    _fields_ = [("api_version", c_int), ("iface", RegInterface), ("context", c_void_p)]


class InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class CPlan(Structure):
    """``struct ggml_cplan``, returned by value; only `work_size` is read."""

    _fields_ = [
        ("work_size", c_size_t),
        ("work_data", c_void_p),
        ("n_threads", c_int),
        ("threadpool", c_void_p),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("use_ref", c_bool),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_version": (c_char_p, []),
    "ggml_tensor_overhead": (c_size_t, []),
    "ggml_op_name": (c_char_p, [c_int]),
    "ggml_type_name": (c_char_p, [c_int]),
    "ggml_blck_size": (c_int64, [c_int]),
    "ggml_type_size": (c_size_t, [c_int]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_4d": (c_void_p, [c_void_p, c_int] + [c_int64] * 4),
    "ggml_view_1d": (c_void_p, [c_void_p, c_void_p, c_int64, c_size_t]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_set_name": (c_void_p, [c_void_p, c_char_p]),
    "ggml_get_name": (c_void_p, [c_void_p]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_graph_nodes": (c_void_p, [c_void_p]),
    "ggml_graph_plan": (CPlan, [c_void_p, c_int, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_set_abort_callback": (None, [c_void_p, c_void_p, c_void_p]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_register": (None, [c_void_p]),
    "ggml_set_abort_callback": (c_void_p, [c_void_p]),
    "ggml_backend_buffer_init": (c_void_p, [c_void_p, BufferInterface, c_void_p, c_size_t]),
}


class Library:
    """The ggml functions of the library that ``libllama.so`` loads."""

    def __init__(self, folder: Path) -> None:
        self._parts = [
            # The soname file is the one libllama maps: whoever is first, both have the same handle
            # and the same device registry.
            ctypes.CDLL(str(folder / f"lib{name}.so.0"))
            for name in ("ggml-base", "ggml-cpu", "ggml")
        ]
        for name, (result, arguments) in _SIGNATURES.items():
            function = self._find(name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _find(self, name: str) -> Any:
        for part in self._parts:
            if hasattr(part, name):
                return getattr(part, name)
        raise UnsupportedError(
            f"the installed ggml has no function {name}; install the pinned llama-cpp-python "
            "with: pip install --force-reinstall flexinfer"
        )


@lru_cache(maxsize=1)
def library() -> Library:
    """Open ggml through the installed llama-cpp-python and check its layouts once.

    Raises:
        UnsupportedError: no or another ggml, or a struct that does not fit this mirror.
    """
    # Found, not imported: the package takes 0.1 s that a plan need not wait for.
    package = find_spec("llama_cpp")
    if package is None or package.origin is None:
        raise UnsupportedError("llama-cpp-python is not installed; run pip install flexinfer again")
    native = Library(Path(package.origin).parent / "lib")
    check_abi(native)
    return native


@lru_cache(maxsize=1)
def libc() -> Any:
    """The C library, with the few calls Python's own modules do not offer."""
    c = ctypes.CDLL(None, use_errno=True)
    c.mmap.restype = c_void_p
    c.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_int64]
    c.munmap.argtypes = [c_void_p, c_size_t]
    return c


def reserve_address_space(nbytes: int) -> int:
    """Map `nbytes` that cannot be touched: a read or write through them is a fault, not a zero.

    Raises:
        BudgetError: the system has no such range.
    """
    address = libc().mmap(None, nbytes, PROT_NONE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise BudgetError(f"cannot reserve {nbytes} bytes of address space; take a smaller context")
    return int(address)


def release_address_space(address: int, nbytes: int) -> None:
    libc().munmap(address, nbytes)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnsupportedError(
            f"this ggml does not fit flexinfer: {what}; install the pinned llama-cpp-python "
            "with: pip install --force-reinstall flexinfer"
        )


def check_abi(native: Library) -> None:
    """Compare the mirror with what the library reports about objects it made itself.

    Raises:
        UnsupportedError: names the first difference.
    """
    version = native.ggml_version().decode()
    _require(version == GGML_VERSION, f"version {version}, expected {GGML_VERSION}")
    _require(native.ggml_tensor_overhead() - 32 == ctypes.sizeof(Tensor), "size of ggml_tensor")
    context = native.ggml_init(InitParams(1 << 20, None, True))
    try:
        _check_tensor(native, context)
        _check_graph(native, context)
    finally:
        native.ggml_free(context)
    _check_vtables(native)


def _check_tensor(native: Library, context: int) -> None:
    q4_0 = next(i for i in range(64) if native.ggml_type_name(i) == b"q4_0")
    weight = native.ggml_new_tensor_4d(context, q4_0, 64, 3, 5, 7)
    view = native.ggml_view_1d(context, weight, 32, 18)
    vector = native.ggml_new_tensor_4d(context, 0, 64, 2, 5, 7)
    product = native.ggml_mul_mat(context, weight, vector)
    native.ggml_set_name(weight, b"flexinfer")
    w, v, p = (Tensor.from_address(t) for t in (weight, view, product))
    _require(w.type == q4_0 and list(w.ne) == [64, 3, 5, 7], "ggml_tensor.ne")
    _require(list(w.nb) == [18, 36, 108, 540], "ggml_tensor.nb")
    _require(w.name == b"flexinfer", "ggml_tensor.name")
    _require(v.view_src == weight and v.view_offs == 18, "ggml_tensor.view_src")
    _require(native.ggml_op_name(p.op) == b"MUL_MAT", "ggml_tensor.op")
    _require(p.src[0] == weight and p.src[1] == vector, "ggml_tensor.src")
    w.data = 0x1000
    _require(native.ggml_get_data(weight) == 0x1000, "ggml_tensor.data")


def _check_graph(native: Library, context: int) -> None:
    address = native.ggml_new_graph_custom(context, 77, False)
    graph = CGraph.from_address(address)
    nodes = native.ggml_graph_nodes(address)
    _require(nodes == graph.nodes, "ggml_cgraph.nodes")
    _require(nodes - address == ctypes.sizeof(CGraph), "size of ggml_cgraph")
    _require(graph.leafs - graph.nodes == 77 * 8, "ggml_cgraph.leafs")
    left, right = (native.ggml_new_tensor_4d(context, 0, 32, 2, 1, 1) for _ in range(2))
    native.ggml_build_forward_expand(address, native.ggml_mul_mat(context, left, right))
    _require(graph.n_nodes == 1 and graph.n_leafs == 2, "ggml_cgraph.n_nodes")
    _require(graph.uid == 0, "ggml_cgraph.uid")


def _check_vtables(native: Library) -> None:
    reg = Reg.from_address(native.ggml_backend_cpu_reg())
    _require(reg.api_version == BACKEND_API_VERSION, f"backend interface {reg.api_version}")
    device = Device.from_address(native.ggml_backend_reg_dev_get(ctypes.addressof(reg), 0))
    name = ctypes.string_at(GetName(device.iface.get_name)(ctypes.addressof(device)))
    _require(name == b"CPU" and device.reg == ctypes.addressof(reg), "ggml_backend_device")
    buft = BufferType.from_address(native.ggml_backend_cpu_buffer_type())
    alignment = CFUNCTYPE(c_size_t, c_void_p)(buft.iface.get_alignment)(ctypes.addressof(buft))
    _require(alignment in (16, 32, 64, 128), "ggml_backend_buffer_type")
    address = AllocBuffer(buft.iface.alloc_buffer)(ctypes.addressof(buft), 4096)
    buffer = Buffer.from_address(address)
    base = GetBase(buffer.iface.get_base)(address)
    _require(buffer.size >= 4096 and buffer.usage == 0 and base % alignment == 0, "buffer")
    _free_buffer(native, address)
    backend_address = native.ggml_backend_cpu_init()
    backend = Backend.from_address(backend_address)
    _require(backend.device == ctypes.addressof(device), "ggml_backend")
    native.ggml_backend_free(backend_address)


def _free_buffer(native: Library, address: int) -> None:
    free = native._find("ggml_backend_buffer_free")
    free.restype, free.argtypes = None, [c_void_p]
    free(address)
