"""Who drafts the server's answers: their text, another model, or the model's own trained head."""

from __future__ import annotations

import os
from dataclasses import dataclass

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.heads import head_of, heads_of
from flexinfer.gguf.same_vocabulary import check_same_vocabulary
from flexinfer.planning.drafted import AUTO, MOST, NGRAM, OFF
from flexinfer.serve.arguments import Extra, read_extra
from flexinfer.serve.forecasts import check_served
from flexinfer.serve.settings import Settings
from flexinfer.speculate.choice import check_draftable

MTP = "mtp"
# Tokens that must be the same before what followed them is drafted; llama.cpp drafts as many at
# least.
_MATCH = 3
# Hidden states of a batch that are alive at a time, where a head drafts: in the compute buffer,
# handed out, in the head's batch, and kept by llama.cpp (``verify_h`` in ``speculative.cpp``).
_HANDED = 4
_F32 = 4
# In the names of weights that work on a state instead of a cache.
_STATES = (".ssm_", ".time_mix_", ".shortconv.")


@dataclass(frozen=True)
class Drafter:
    """A model that drafts, how the server names it, and its head where that is what drafts."""

    catalogue: Catalogue
    path: str
    head: Catalogue | None = None

    @property
    def read(self) -> Catalogue:
        """What is computed of it."""
        return self.head or self.catalogue

    @property
    def most(self) -> int:
        """Tokens that it drafts at once; of several heads each drafts one."""
        heads = heads_of(self.catalogue) if self.head else 1
        return heads if heads > 1 else MOST

    def handed(self, ubatch: int) -> int:
        """Bytes of the hidden states that a head is handed in batches of so many tokens."""
        width = int(self.catalogue.parameter("embedding_length", 0)) if self.head else 0
        return _HANDED * _F32 * width * ubatch


def way_of_drafting(settings: Settings, catalogue: Catalogue) -> str:
    """The way of drafting: what was asked for, where the model can be drafted for.

    Raises:
        RequestError: there are two wishes.
        UnsupportedError: it cannot.
    """
    way, flags = settings.draft, settings.flags.flags
    if way == OFF:
        return way
    if {"--spec-type", "-md", "--model-draft", "--spec-draft-model"} & set(flags):
        raise RequestError("--draft and the flags after -- both say who drafts; give one of them")
    refused = refusal(settings, catalogue)
    if refused is not None:
        if way != AUTO:
            raise refused
        return OFF
    return (MTP if _has_head(settings, catalogue) else NGRAM) if way == AUTO else way


def refusal(settings: Settings, catalogue: Catalogue) -> UnsupportedError | None:
    """Why answers of this model cannot be drafted, if so."""
    recurrent = any(mark in info.name for info in catalogue.tensors for mark in _STATES)
    elsewhere = settings.split is not None
    try:
        check_draftable(
            catalogue.name, catalogue.architecture, recurrent=recurrent, elsewhere=elsewhere
        )
    except UnsupportedError as error:
        return error
    return None


def _has_head(settings: Settings, catalogue: Catalogue) -> bool:
    try:
        _head(settings, catalogue)
    except UnsupportedError:
        return False
    return True


def _head(settings: Settings, catalogue: Catalogue) -> Drafter:
    """The model's own head, which llama.cpp opens as a second model.

    Raises:
        UnsupportedError: there is none, or it would miss what images are.
    """
    head, path = head_of(catalogue), catalogue.paths[0]
    if settings.mmproj is not None:
        raise UnsupportedError(
            f"{path}: its trained head follows text alone; leave --mmproj out, or give ngram"
        )
    # Models are known by the path that the server gives: this one's is another for the same file.
    other = os.path.join(os.path.dirname(path) or ".", ".", os.path.basename(path))
    return Drafter(catalogue, other, head)


def find_drafter(settings: Settings, catalogue: Catalogue, way: str) -> Drafter | None:
    """The model that drafts, where one does.

    Raises:
        RequestError: there are two wishes, or its vocabulary is another one.
        UnsupportedError: there is no such head, or the model is not served.
        ModelFileError: it cannot be used.
    """
    flags = settings.flags
    if way == MTP or flags.head:
        if flags.draft_model is not None:
            raise RequestError("--spec-type draft-mtp is the model's own head; leave -md out")
        return _head(settings, catalogue)
    path = flags.draft_model if way in (OFF, NGRAM) else way
    if path is None:
        return None
    draft = read_catalogue(path)
    check_served(draft)
    check_same_vocabulary(catalogue, draft)
    return Drafter(draft, draft.paths[0])


def flags_with(flags: Extra, drafter: Drafter | None, most: int, way: str) -> Extra:
    """The flags, and those that draft up to `most` tokens; what was given by hand stays."""
    if way == OFF:
        # llama-server loads a model that is given alone, and has it draft nothing.
        kinds = ",".join(flags.kinds)
        wanted = {} if drafter is None else {"-md": drafter.path, "--spec-type": kinds}
    elif drafter is None:
        wanted = {
            "--spec-type": "ngram-simple",
            "--spec-ngram-simple-size-n": str(_MATCH),
            "--spec-ngram-simple-size-m": str(max(most, _MATCH)),
        }
    else:
        kind = "draft-simple" if drafter.head is None else "draft-mtp"
        wanted = {"-md": drafter.path, "--spec-type": kind}
        wanted["--spec-draft-n-max"] = str(most)
    if flags.draft_model is not None:
        wanted.pop("-md", None)
    new = [part for pair in wanted.items() if pair[0] not in flags.flags for part in pair]
    return read_extra((*flags.flags, *new))
