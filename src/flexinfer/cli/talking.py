"""The loop of `chat`: reading and answering, until input ends or a signal does.

Whatever fails between two messages or in the middle of an answer is told in one sentence, and the
next message is asked for. The messages are on the drive after each of them.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flexinfer.cli.messages import EndlessLine, read_message
from flexinfer.cli.streams import OutputLost, log, say
from flexinfer.native.device.interrupts import hold_interrupts
from flexinfer.sizes import format_figure, format_size
from flexinfer.text import one_line, shown

if TYPE_CHECKING:
    from flexinfer.chat.conversation import Conversation
    from flexinfer.chat.session import SessionFile
    from flexinfer.llama import Llama
    from flexinfer.speculate.drafts import DraftStats

_HELP = """\
/clear   forget the conversation        /speed   switch the line of speed on or off
/save    write the session now          /exit    leave (as Ctrl-D does)
A line that ends in \\ goes on; a line of three quotes (\"\"\") begins and ends a longer text.
Ctrl-C stops an answer."""


class Talking:
    """One conversation in the terminal.

    Args:
        session: where it is kept, if anywhere.
        speed: whether a line of speed follows each answer.
        stops: texts that end an answer.
        limit: at most so many tokens an answer; negative: no limit.
    """

    def __init__(
        self,
        llm: Llama,
        talk: Conversation,
        session: SessionFile | None,
        *,
        speed: bool,
        stops: tuple[str, ...],
        limit: int,
    ) -> None:
        self._llm = llm
        self._talk = talk
        self._session = session
        self._speed = speed
        self._stops = stops
        self._limit = limit
        self._commands: dict[str, Callable[[], None]] = {
            "/clear": talk.clear,
            "/speed": self._switch_speed,
            "/save": self._save,
            "/help": lambda: log(_HELP),
        }

    def resume(self) -> None:
        """Go on with the session, if it is there.

        Raises:
            RequestError: the file is no session.
        """
        if self._session is None or not self._session.path.exists():
            return
        session = self._session.load(self._llm)
        self._talk.resume(session)
        how = "" if session.cached else "; their cache does not fit and is computed again"
        log(f"resumed {len(session.messages)} messages{how}")

    def run(self) -> None:
        """Read and answer until input ends; the session is written, however that comes about.

        Raises:
            RequestError: the session cannot be written.
        """
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history for input())

            log("/help lists commands, Ctrl-D leaves")
        try:
            while self._go_on():
                pass
        except BaseException:
            with _told():
                self._leave()
            raise
        self._leave()

    def _go_on(self) -> bool:
        """Take one message; False when there is none any more."""
        try:
            text = read_message()
            if text is None or text == "/exit":
                return False
            with _told():
                self._take(text)
        except EndlessLine:
            raise
        except KeyboardInterrupt:
            log()
        # Of a line that is no text.
        except ValueError as error:
            log(one_line(str(error)))
        return True

    def _take(self, text: str) -> None:
        action = self._commands.get(text)
        if action is not None:
            action()
        elif text.startswith("/") and " " not in text:
            log(f"there is no command {one_line(text)}; /help lists them")
        elif text.strip():
            self._answer(text)

    def _answer(self, text: str) -> None:
        before, began, dropped = self._llm.stats, time.monotonic(), self._talk.dropped
        first: float | None = None
        known, drafted = self._llm.n_tokens, self._llm.drafting
        try:
            with contextlib.closing(self._talk.ask(text, self._stops, self._limit)) as pieces:
                for piece in pieces:
                    first = first or time.monotonic()
                    say(shown(piece), nl=False)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            log(" [stopped]", nl=False)
        finally:
            self._note()
            # An answer that broke off ends its line, too.
            if first is not None:
                say()
        if first is None:
            say()
        if self._talk.dropped > dropped:
            log("the context is full: the oldest turns were forgotten")
        if self._speed:
            log(self._speed_line(before, began, first, known, drafted))

    def _speed_line(
        self, before: Any, began: float, first: float | None, known: int, drafted: DraftStats | None
    ) -> str:
        done, drafts = self._llm.stats - before, self._llm.drafting
        tokens = done.passes
        if drafts is not None and drafted is not None:
            drafts -= drafted
            tokens += drafts.tokens - drafts.passes
        now = time.monotonic()
        computed = max(self._llm.n_tokens - known, 0)
        wait = f"first after {first - began:.1f} s, " if first else ""
        rate = (tokens - 1) / (now - first) if first and now > first else 0.0
        pace = f"then {format_figure(rate)} tokens/s, " if done.passes > 1 else ""
        read = format_size(done.read_bytes / max(done.passes, 1))
        told = f", {drafts}" if drafts is not None else ""
        return f"[{computed} tokens computed, {wait}{pace}{read} read a pass{told}]"

    def _switch_speed(self) -> None:
        self._speed = not self._speed

    def _save(self) -> None:
        if self._session is None:
            log("there is no session file; start with --session FILE")
            return
        self._session.save(self._llm, self._talk.session)

    def _note(self) -> None:
        """Bring the messages to the drive; who interrupts waits for that."""
        if self._session is None:
            return
        with hold_interrupts() as held, _told():
            self._session.note(self._llm, self._talk.session)
        held.deliver()

    def _leave(self) -> None:
        """Write the session; nothing interrupts that, as what follows is the end."""
        if self._session is not None:
            with hold_interrupts():
                self._session.save(self._llm, self._talk.session)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """An error is told in one sentence, and is over with that."""
    try:
        yield
    except OutputLost:
        raise
    except Exception as error:
        told = str(error) or f"there is no memory left ({type(error).__name__})"
        log(one_line(told))
