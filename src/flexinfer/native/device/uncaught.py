"""C++ exceptions that nobody catches: what they say, asked while the process is about to end.

llama.cpp throws through functions that C calls, where the runtime finds no handler and calls
``std::terminate``. The names are those of the Itanium C++ ABI, which libstdc++ exports.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, c_char_p, c_void_p
from typing import Any

# Mangled names of exceptions that have `what` where `std::exception` has it.
_STANDARD = {
    b"St9exception": "exception",
    b"St9bad_alloc": "bad_alloc",
    b"St11logic_error": "logic_error",
    b"St12out_of_range": "out_of_range",
    b"St12length_error": "length_error",
    b"St12domain_error": "domain_error",
    b"St13runtime_error": "runtime_error",
    b"St16invalid_argument": "invalid_argument",
    b"St15regex_error": "regex_error",
    b"NSt7__cxx1111regex_errorE": "regex_error",
}
_OnTerminate = CFUNCTYPE(None)
_What = CFUNCTYPE(c_char_p, c_void_p)
# Virtual functions of `std::exception`: two destructors come before `what`.
_WHAT = 2


class Uncaught:
    """Tells `ending` the text of an exception that would end the process, in its thread.

    Args:
        library: any that is linked to the C++ runtime; where it is not, nothing is told.
        ending: must not return, as what follows it is `abort`.
    """

    def __init__(self, library: CDLL, ending: Callable[[str], None]) -> None:
        self._library = library
        self._ending = ending
        self._callback = _OnTerminate(self._terminating)
        set_terminate: Any = getattr(library, "_ZSt13set_terminatePFvvE", None)
        if set_terminate is not None:
            set_terminate.restype = c_void_p
            set_terminate.argtypes = [c_void_p]
            set_terminate(self._callback)

    def _terminating(self) -> None:
        self._ending(self._text())

    def _text(self) -> str:
        kind = self._call("__cxa_current_exception_type")
        if not kind:
            return "it ended the process without an exception"
        name = c_char_p.from_address(kind + ctypes.sizeof(c_void_p)).value or b""
        known = _STANDARD.get(name.lstrip(b"*"))
        if known is None:
            return f"an exception of type {name.decode('ascii', 'replace')}"
        table = c_void_p.from_address(self._current()).value or 0
        what = c_void_p.from_address(table + _WHAT * ctypes.sizeof(c_void_p)).value
        said = _What(what)(self._current()) if what else None
        return f"{known}: {(said or b'').decode('utf-8', 'replace')}"

    def _current(self) -> int:
        """Address of the exception: what `std::exception_ptr` consists of."""
        current: Any = self._library._ZSt17current_exceptionv
        current.restype = None
        current.argtypes = [c_void_p]
        pointer = c_void_p()
        current(ctypes.byref(pointer))
        return int(pointer.value or 0)

    def _call(self, name: str) -> int:
        function: Any = getattr(self._library, name)
        function.restype = c_void_p
        function.argtypes = []
        return int(function() or 0)
