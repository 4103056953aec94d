"""Models for which ggml would end the process, then the sound one again; prints what was said.

    python broken.py SOUND BROKEN...

The first line says whether the sound model answers as before, the others are the errors.
"""

from __future__ import annotations

import sys

from flexinfer.errors import ModelFileError
from support.decoding_bits import answer, open_tiny


def main() -> None:
    sound, *broken = sys.argv[1:]
    with open_tiny(sound) as llm:
        expected = answer(llm)
    said = []
    for path in broken:
        try:
            open_tiny(path).close()
        except ModelFileError as error:
            said.append(str(error))
        else:
            said.append("opened")
    with open_tiny(sound) as llm:
        print(answer(llm) == expected)
    print("\n".join(said))


main()
