"""The check that the mirror of ggml's structs fits the library that is installed.

Each struct is compared with what the library says of an object that it made itself, so a library
built otherwise is refused before a wrong offset reaches it.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_size_t, c_void_p
from typing import Any

from flexinfer.errors import UnsupportedError
from flexinfer.native.mirror import (
    BACKEND_API_VERSION,
    GGML_VERSION,
    AllocBuffer,
    Backend,
    BackendDevice,
    Buffer,
    BufferType,
    CGraph,
    GetBase,
    GetName,
    InitParams,
    Reg,
    Tensor,
)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnsupportedError(
            f"this ggml does not fit flexinfer: {what}; install the pinned llama-cpp-python "
            "with: pip install --force-reinstall flexinfer"
        )


def check_abi(native: Any) -> None:
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


def _check_tensor(native: Any, context: int) -> None:
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


def _check_graph(native: Any, context: int) -> None:
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


def _check_vtables(native: Any) -> None:
    reg = Reg.from_address(native.ggml_backend_cpu_reg())
    _require(reg.api_version == BACKEND_API_VERSION, f"backend interface {reg.api_version}")
    device = BackendDevice.from_address(native.ggml_backend_reg_dev_get(ctypes.addressof(reg), 0))
    name = ctypes.string_at(GetName(device.iface.get_name)(ctypes.addressof(device)))
    _require(name == b"CPU" and device.reg == ctypes.addressof(reg), "ggml_backend_device")
    buft = BufferType.from_address(native.ggml_backend_cpu_buffer_type())
    alignment = CFUNCTYPE(c_size_t, c_void_p)(buft.iface.get_alignment)(ctypes.addressof(buft))
    _require(alignment in (16, 32, 64, 128), "ggml_backend_buffer_type")
    address = AllocBuffer(buft.iface.alloc_buffer)(ctypes.addressof(buft), 4096)
    buffer = Buffer.from_address(address)
    base = GetBase(buffer.iface.get_base)(address)
    _require(buffer.size >= 4096 and buffer.usage == 0 and base % alignment == 0, "buffer")
    native.ggml_backend_buffer_free(address)
    backend_address = native.ggml_backend_cpu_init()
    backend = Backend.from_address(backend_address)
    _require(backend.device == ctypes.addressof(device), "ggml_backend")
    native.ggml_backend_free(backend_address)
