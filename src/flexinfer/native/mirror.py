"""A literal ctypes mirror of the parts of ggml that a device needs.

Layouts follow ``ggml/include/ggml.h``, ``ggml/src/ggml-impl.h`` and
``ggml/src/ggml-backend-impl.h`` (``api_version`` 2) of the one pinned llama-cpp-python.
Structs and constants only; `ggml_check` compares them with the library before anything here is
handed to it.
"""

from __future__ import annotations

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

GGML_VERSION = "0.25.3"
BACKEND_API_VERSION = 2
MAX_SRC = 10

STATUS_ALLOC_FAILED = -2
STATUS_FAILED = -1
STATUS_SUCCESS = 0
STATUS_ABORTED = 1

DEVICE_TYPE_CPU = 0
USAGE_COMPUTE = 2
LOG_LEVEL_DEBUG = 1


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
LogCallback = CFUNCTYPE(None, c_int, c_char_p, c_void_p)
# A list of buffer types that ends with a null pointer.
GetExtraBuffers = CFUNCTYPE(POINTER(c_void_p), c_void_p)


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


class BackendDevice(Structure):
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
