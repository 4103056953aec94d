"""Every exception that flexinfer raises on purpose.

FlexInferError
├── SizeError (ValueError)            a byte size that cannot be read
├── ModelFileError (ValueError)       not a GGUF, truncated, or contradicting itself
│   └── ModelNotFoundError (FileNotFoundError)
├── BudgetError (MemoryError)         the smallest possible plan does not fit
├── ReadError (OSError)               the drive failed, was too slow, or the file changed
├── UnsupportedError (RuntimeError)   platform, library version or argument we do not handle
├── RequestError (ValueError)         a prompt or an option that cannot be served
├── WorkerError (ConnectionError)     a worker is not there, refused, or was lost
└── EngineError (RuntimeError)        a pass failed and the model says what is left of it

Each also inherits the builtin that a caller would catch. Messages say what happened, where
(path, tensor, offset, bytes) and what to do.
"""

from __future__ import annotations

import errno


class FlexInferError(Exception):
    """Base of all errors raised by flexinfer."""


class SizeError(FlexInferError, ValueError):
    """A byte size such as ``6GiB`` could not be read."""


class ModelFileError(FlexInferError, ValueError):
    """The file is no GGUF that can be run."""


class ModelNotFoundError(ModelFileError, FileNotFoundError):
    """There is no such file, or it may not be read."""

    @classmethod
    def of(cls, path: str, error: Exception, todo: str) -> ModelNotFoundError:
        """The error for a file that could not be opened; `todo` is for one that is not there."""
        number = getattr(error, "errno", None)
        why = getattr(error, "strerror", None) or str(error)
        if number in (errno.EMFILE, errno.ENFILE):
            todo = "raise the limit on open files: ulimit -n 4096"
        elif number in (errno.EACCES, errno.EPERM):
            todo = f"ask for the right to read it: ls -l {path}"
        return cls(f"{path}: {why.lower()}; {todo}")


class BudgetError(FlexInferError, MemoryError):
    """The memory budget is too small; the message has the arithmetic."""


class ReadError(FlexInferError, OSError):
    """Bytes of a model file could not be read."""


class UnsupportedError(FlexInferError, RuntimeError):
    """This platform, library version or argument is not supported."""


class RequestError(FlexInferError, ValueError):
    """A prompt or an option cannot be served by this model."""


class WorkerError(FlexInferError, ConnectionError):
    """A worker cannot be reached, does not do what it is asked, or was lost in the middle."""


class EngineError(FlexInferError, RuntimeError):
    """A pass over the model failed."""
