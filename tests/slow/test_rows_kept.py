"""Several tokens in a pass have the logits of single passes, for every architecture there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.architectures import tiny
from support.rows import one_by_one, open_rows, some_tokens, together

from flexinfer.errors import RequestError

# llama.cpp forbids its tokens of images in the first row of a batch alone.
LIKE_NO_OTHER = "chameleon-dense"


@pytest.mark.parametrize("flash_attn", [True, False])
@pytest.mark.parametrize("name", [name for name in tiny.models() if name != LIKE_NO_OTHER])
def test_rows_of_an_architecture(name: str, flash_attn: bool, tmp_path: Path) -> None:
    path = tiny.write(name, tmp_path)
    with open_rows(path, "8MiB", flash_attn=flash_attn, n_ctx=256) as llm:
        try:
            llm.check_prompt([3])
        except RequestError as refusal:
            pytest.skip(str(refusal))
        if llm.encodes_prompts:
            pytest.skip("its encoder reads the prompt")
        tokens = some_tokens(llm, 9, 77)
        single = one_by_one(llm, 200, tokens)
        for count in (2, 9):
            assert np.array_equal(together(llm, 200, tokens[:count]), single[:count])
