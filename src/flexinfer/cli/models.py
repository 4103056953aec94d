"""What MODEL may be on the command line: a file here, or a reference to the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexinfer.cli.options import plan_arguments
from flexinfer.cli.streams import log
from flexinfer.text import one_line

if TYPE_CHECKING:
    from flexinfer.gguf.catalogue import Catalogue


def catalogue_of(model: str) -> Catalogue:
    """The header of `model`, read from the file or from the hub."""
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.hub import hub

    if hub.is_reference(model):
        return hub.read_remote(hub.locate(model))
    return read_catalogue(model)


def runnable(path: str) -> Catalogue:
    """The header of a file, once it is one of a model that llama.cpp can run.

    Raises:
        ModelFileError, UnsupportedError: it is not; says why.
    """
    from flexinfer.gguf.architectures import check_architecture
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.gguf.check_metadata import check_parameters

    catalogue = read_catalogue(path)
    check_architecture(catalogue)
    check_parameters(catalogue)
    return catalogue


def local_model(model: str, engine: dict[str, Any]) -> Catalogue:
    """The header of `model` here; what is on the hub is downloaded once it is known to fit.

    Args:
        engine: what `engine_options` collected.

    Raises:
        UnsupportedError: llama.cpp does not have its architecture; nothing was downloaded.
        BudgetError: the model cannot run in this budget; nothing was downloaded.
    """
    from flexinfer.gguf.catalogue import read_catalogue
    from flexinfer.hub.reference import is_reference

    if not is_reference(model):
        return runnable(model)
    from flexinfer.foretell import require_fit
    from flexinfer.hub import hub

    choice = hub.locate(model)
    require_fit(hub.read_remote(choice), plan_arguments(engine))
    path = hub.download(choice)
    log(f"{one_line(model)} is {one_line(path)}")
    return read_catalogue(path)
