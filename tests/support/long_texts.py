"""Texts for `support.victims.long_texts`, a program that llama.cpp's tokenizer might end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
# Every name that llama.cpp reads in ``tokenizer.ggml.pre`` and splits words for in another way.
NAMES = [
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


def words(folder: Path, others: int) -> dict[str, list[str]]:
    """What came of words by each of `NAMES`: of letters, and of so many others in turns."""
    lines = victim("words", str(folder), str(others), *NAMES)
    return {name: said for name, *said in map(str.split, lines)}
