"""Texts for which llama.cpp's tokenizer would end the process, or would not come back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
# Every name that llama.cpp reads in ``tokenizer.ggml.pre`` and splits words for in another way.
_NAMES = [
    *("default", "minicpm5", "llama-bpe", "deepseek-llm", "deepseek-coder", "deepseek-v3"),
    *("spark2_5", "youtu", "falcon", "mpt", "starcoder", "gpt-2", "jais-2", "gemma4"),
    *("sarvam-moe", "whitespace", "refact", "command-r", "qwen2", "qwen35", "stablelm2", "olmo"),
    *("dbrx", "smaug-bpe", "poro-chat", "chatglm-bpe", "viking", "jais", "tekken", "smollm"),
    *("codeshell", "bloom", "gpt3-finnish", "exaone", "exaone4", "exaone-moe", "chameleon"),
    *("minerva-7b", "megrez", "gpt-4o", "llama4", "kanana2", "talkie", "granite-embed-multi-97m"),
    *("tiny_aya", "cohere2moe", "superbpe", "trillion", "granite-docling", "bailingmoe"),
    *("bailingmoe2", "llada-moe", "seed-coder", "hunyuan", "hunyuan-dense", "hy_v4", "joyai-llm"),
    *("kimi-k2", "ufakzeka", "grok-2", "afmoe", "laguna", "minimax-m2", "solar-open", "mellum2"),
]


def victim(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(_TESTS / "support" / "victims" / "long_texts.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path]), "GGML_NO_BACKTRACE": "1"},
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.splitlines()


@pytest.mark.parametrize("others", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_words_that_no_usual_stack_holds(tmp_path: Path, others: int) -> None:
    """They are read, by any regular expressions, or refused where twice the stack is too little."""
    lines = victim("words", str(tmp_path), str(others), *_NAMES)
    outcomes = {name: said for name, *said in map(str.split, lines)}
    assert list(outcomes) == _NAMES
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
