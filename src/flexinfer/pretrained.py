"""Opening a model of the hub: what is asked for is looked at before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

import llama_cpp

from flexinfer.binding.arguments import refuse_placement
from flexinfer.binding.check_arguments import check_arguments
from flexinfer.closing import Closing
from flexinfer.kinds import plain
from flexinfer.machine.budget import wished_budget
from flexinfer.machine.machine import Machine
from flexinfer.native.cards import cards
from flexinfer.planning.strategies import check_strategy
from flexinfer.sizes import optional_size


def check_asked(options: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise for arguments that are wrong whichever model is opened; `own` are names of ours.

    Raises:
        TypeError: there is no such argument.
        RequestError, SizeError: a value that cannot be taken.
        UnsupportedError: it places weights.
    """
    check_arguments(options, own)
    refuse_placement(dict(options), cards=bool(cards()))
    check_strategy(options.get("strategy", "flex"))
    for name in ("weight_memory", "window"):
        optional_size(options.get(name))
    if options.get("memory") not in (None, "auto"):
        wished_budget(options["memory"], Machine.detect())


class Pretrained(Closing):
    """A model that may be one of the hub."""

    @classmethod
    def from_pretrained(
        cls, repo_id: str, filename: str | None, *arguments: Any, **options: Any
    ) -> Any:
        """As the parent's.

        Raises:
            FlexInferError, TypeError: of an argument, before the hub is asked.
        """
        names = signature(llama_cpp.Llama.from_pretrained)
        asked = names.bind(repo_id, filename, *arguments, **options).arguments
        check_asked(plain(asked.get("kwargs", {})), signature(cls.__init__).parameters)
        return super().from_pretrained(repo_id, filename, *arguments, **options)
