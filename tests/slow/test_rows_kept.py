"""Several tokens in a pass have the logits of single passes, for every architecture there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.architectures import tiny
from support.rows import one_by_one, open_rows, some_tokens, together

from flexinfer.binding.drafting import keeps_state
from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.speculate.choice import check_draftable


@pytest.mark.parametrize("flash_attn", [True, False])
@pytest.mark.parametrize("name", list(tiny.models()))
def test_rows_of_an_architecture(name: str, flash_attn: bool, tmp_path: Path) -> None:
    path = tiny.write(name, tmp_path)
    with open_rows(path, "8MiB", flash_attn=flash_attn, n_ctx=256) as llm:
        try:
            llm.check_prompt([3])
            kind = (name, llm.catalogue.architecture)
            check_draftable(*kind, recurrent=keeps_state(llm))
        except (RequestError, UnsupportedError) as refusal:
            pytest.skip(str(refusal))
        if llm.encodes_prompts:
            pytest.skip("its encoder reads the prompt")
        tokens = some_tokens(llm, 9, 77)
        single = one_by_one(llm, 200, tokens)
        for count in (2, 4, 9):
            assert np.array_equal(together(llm, 200, tokens[:count]), single[:count])
