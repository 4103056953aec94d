"""What budget a wish comes to: a size, a share of what there is, or what is available.

Every way in goes through here: what does not exist cannot be used, and asking for it would end
with the kernel killing the process.
"""

from __future__ import annotations

from flexinfer.errors import SizeError
from flexinfer.machine.machine import Machine
from flexinfer.sizes import is_share, parse_share, parse_size

# A group of just the size of the wish counts some kernel memory of ours as somebody else's.
_TOLERANCE = 50


def wished_budget(wish: str | int, machine: Machine) -> int:
    """Bytes of a wish: ``"6GiB"``, a number, or ``"50%"`` of the machine's or the group's memory.

    A share is of what this process could use with nothing else running, not of what happens to be
    free, so that it means the same each time.

    Raises:
        SizeError: it is neither, or a share that is not above 0 and at most 100 %.
    """
    if not isinstance(wish, str) or not is_share(wish):
        return parse_size(wish)
    share = parse_share(wish)
    if share > 1:
        raise SizeError(f"{wish!r} is not a share above 0% and up to 100%")
    return int(machine.memory_existing * share)


def granted_budget(wish: str | int | None, machine: Machine) -> int:
    """Bytes that this whole process may use: the wish, or what exists where that is less.

    Without a wish it is what is available less a margin.

    Raises:
        SizeError: the wish cannot be read.
    """
    budget = machine.default_budget if wish is None else wished_budget(wish, machine)
    if budget - budget // _TOLERANCE > machine.ceiling:
        return machine.ceiling
    return budget
