"""A file on the hub that is read by ranges: nothing is kept, and few questions are asked twice."""

from __future__ import annotations

import time

from flexinfer.gguf.source import Source

# The client's own would ask six times, in 23 seconds.
_PAUSES = (0.5, 1.5)
_SERVER_ERRORS = 500
_PARTIAL = 206


class RemoteSource(Source):
    """The bytes of a file in a repository.

    Args:
        name: under which it is spoken of.

    Raises:
        Exception: whatever the hub's client raises, here and in `read_at`.
    """

    def __init__(self, name: str, repo: str, file: str, revision: str | None) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        self.name = name
        self._url = hf_hub_url(repo, file, revision=revision)
        self.size = int(get_hf_file_metadata(self._url).size or 0)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        from huggingface_hub import constants
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import get_session, hf_raise_for_status

        stop = min(offset + nbytes, self.size)
        if stop <= offset:
            return b""
        headers = {**build_hf_headers(), "Range": f"bytes={offset}-{stop - 1}"}
        for pause in (*_PAUSES, None):
            answer = get_session().get(
                self._url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            if answer.status_code < _SERVER_ERRORS or pause is None:
                break
            time.sleep(pause)
        hf_raise_for_status(answer)
        found = bytes(answer.content)
        # Who knows no ranges gives the whole file.
        return found if answer.status_code == _PARTIAL else found[offset:stop]
