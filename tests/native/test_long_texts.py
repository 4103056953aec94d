"""Texts for which llama.cpp's tokenizer would end the process, or would not come back."""

from __future__ import annotations

from pathlib import Path

from support.long_texts import NAMES, victim, words


def test_words_that_no_usual_stack_holds(tmp_path: Path) -> None:
    """They are read, by any regular expressions, or refused where twice the stack is too little."""
    outcomes = words(tmp_path, 2)
    assert list(outcomes) == NAMES
    # What came of words of letters.
    assert {outcomes[name][0] for name in ("tekken", "deepseek-v3", "bloom", "exaone-moe")} == {
        ".r"
    }
    assert {outcomes[name][0] for name in ("default", "llama-bpe", "qwen2", "smollm")} == {".."}


def test_a_text_of_special_tokens_ends_in_time_and_the_vocabulary_stays(tmp_path: Path) -> None:
    """llama.cpp takes the square of their number; the thread that goes on reads the vocabulary."""
    said, lives = victim("special", str(tmp_path))
    assert "cannot make tokens of this text, it takes longer than" in said
    assert lives == "lives"
