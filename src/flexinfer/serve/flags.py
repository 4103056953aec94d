"""The flags of llama-server: which are passed on, and what to use instead of some others."""

from __future__ import annotations

# Each with all its names; they neither place memory nor start processes.
# fmt: off
WITH_VALUE = frozenset((
    "-n", "--predict", "--n-predict", "--keep", "--samplers", "-s", "--seed", "--sampler-seq",
    "--sampling-seq", "--temp", "--temperature", "--top-k", "--top-p", "--min-p", "--top-nsigma",
    "--top-n-sigma", "--xtc-probability", "--xtc-threshold", "--typical", "--typical-p",
    "--repeat-last-n", "--repeat-penalty", "--presence-penalty", "--frequency-penalty",
    "--dry-multiplier", "--dry-base", "--dry-allowed-length", "--dry-penalty-last-n",
    "--dry-sequence-breaker", "--adaptive-target", "--adaptive-decay", "--dynatemp-range",
    "--dynatemp-exp", "--mirostat", "--mirostat-lr", "--mirostat-ent", "-l", "--logit-bias",
    "--grammar", "--grammar-file", "-j", "--json-schema", "-jf", "--json-schema-file",
    "--chat-template", "--chat-template-file", "--chat-template-kwargs", "-r", "--reverse-prompt",
    "--reasoning-format", "-rea", "--reasoning", "--reasoning-effort", "--reasoning-budget",
    "--reasoning-budget-message", "--log-file", "--log-colors", "-lv", "--verbosity",
    "--log-verbosity", "-ctxcp", "--ctx-checkpoints", "--swa-checkpoints", "-cms",
    "-cram", "--cache-ram",
    "--checkpoint-min-step", "--spec-type", "-md", "--model-draft", "--spec-draft-model",
    "--spec-draft-n-max", "--spec-draft-n-min", "--spec-draft-p-min", "--draft-p-min",
    "--spec-draft-p-split", "--draft-p-split", "--spec-synth-len", "--spec-synth-rates",
    "--spec-ngram-mod-n-min", "--spec-ngram-mod-n-max", "--spec-ngram-mod-n-match",
    "--spec-ngram-simple-size-n", "--spec-ngram-simple-size-m", "--spec-ngram-simple-min-hits",
    "--spec-ngram-map-k-size-n", "--spec-ngram-map-k-size-m", "--spec-ngram-map-k-min-hits",
    "--spec-ngram-map-k4v-size-n", "--spec-ngram-map-k4v-size-m", "--spec-ngram-map-k4v-min-hits",
    "--pooling", "--embd-normalize", "--tags", "--api-key-file", "--api-prefix", "-to",
    "--timeout", "--sse-ping-interval", "--cache-reuse", "-sps", "--slot-prompt-similarity",
    "--slot-save-path", "--image-min-tokens", "--image-max-tokens", "--rope-scaling",
    "--rope-scale", "--rope-freq-base", "--rope-freq-scale", "--yarn-orig-ctx",
    "--yarn-ext-factor", "--yarn-attn-factor", "--yarn-beta-slow", "--yarn-beta-fast",
    "--ssl-key-file", "--ssl-cert-file",
))
SWITCHES = frozenset((
    "--ignore-eos", "-e", "--escape", "--no-escape", "-sp", "--special", "--spm-infill",
    "--jinja", "--no-jinja", "--skip-chat-parsing", "--no-skip-chat-parsing",
    "--prefill-assistant", "--no-prefill-assistant", "--reasoning-preserve",
    "--no-reasoning-preserve", "--context-shift", "--no-context-shift", "--cache-prompt",
    "--no-cache-prompt", "--log-disable", "-v", "--verbose", "--log-verbose", "--log-prefix",
    "--no-log-prefix", "--log-timestamps", "--no-log-timestamps", "--log-jsonl", "--no-log-jsonl",
    "--perf", "--no-perf", "--slots", "--no-slots", "--rerank", "--reranking",
    "--lora-init-without-apply", "--swa-full",
))
# fmt: on
# Why a flag that one might look for is not there.
INSTEAD = {
    **dict.fromkeys(("-c", "--ctx-size", "--kv-unified-per-slot"), "--ctx of flexinfer serve"),
    **dict.fromkeys(("-np", "--parallel"), "--slots of flexinfer serve"),
    **dict.fromkeys(("-ctk", "-ctv", "--cache-type-k", "--cache-type-v"), "--kv-type"),
    **dict.fromkeys(("-t", "--threads", "-tb", "--threads-batch"), "--threads"),
    **dict.fromkeys(("-fa", "--flash-attn"), "--flash-attn of flexinfer serve"),
    **dict.fromkeys(("-m", "--model", "-hf", "--hf-repo"), "the argument MODEL"),
    **dict.fromkeys(
        ("--lora", "-mm", "--mmproj", "--embeddings", "-a", "--alias", "--host", "--port"),
        "the option of that name before the --",
    ),
    **dict.fromkeys(("--api-key", "--cors-origins"), "the option of that name before the --"),
    "--sleep-idle-seconds": "--idle-release",
}
