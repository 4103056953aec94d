"""Images beside a prompt: a chat handler that takes the text as it is written, and bytes as images.

The binding's handlers render a chat template themselves and fetch images from addresses. Here the
text comes from outside, where a stranger's template cannot do harm, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp.mtmd_cpp as mtmd_cpp
from llama_cpp.llama_chat_format import Llava15ChatHandler

from flexinfer.errors import RequestError
from flexinfer.text import FileName

# Stands in a prompt where an image is looked at.
MARKER: str = mtmd_cpp.mtmd_default_marker().decode()


class Pictures(Llava15ChatHandler):  # type: ignore[misc]
    """A handler of the projector in a file.

    Args:
        path: of the projector, which fits the model.
    """

    DEFAULT_SYSTEM_MESSAGE = None
    CHAT_FORMAT = "{{ messages[0].written }}"

    def __init__(self, path: str) -> None:
        self._images: dict[str, bytes] = {}
        super().__init__(FileName(path), verbose=False)

    def ask(self, text: str, images: Sequence[bytes]) -> list[dict[str, Any]]:
        """The messages of a chat that ask for what follows `text`, which has a `MARKER` an image.

        Raises:
            RequestError: it has another number of them.
        """
        if text.count(MARKER) != len(images):
            raise RequestError(
                f"the prompt has {text.count(MARKER)} places for images ({MARKER}) but there are "
                f"{len(images)} images; the place of each is added by itself, leave it out"
            )
        self._images = {f"image {number}": image for number, image in enumerate(images, 1)}
        places = [{"type": "image_url", "image_url": name} for name in self._images]
        return [{"role": "user", "content": places, "written": text}]

    def load_image(self, image_url: str) -> bytes:
        return self._images[image_url]

    def _create_bitmap_from_bytes(self, image_bytes: bytes) -> Any:
        try:
            return super()._create_bitmap_from_bytes(image_bytes)
        except ValueError as error:
            raise RequestError(
                "llama.cpp does not read the image; give a JPEG, PNG, BMP or GIF file"
            ) from error
