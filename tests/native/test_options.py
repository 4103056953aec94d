"""Every option of every command, by what standard output says with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.api_calls import write_adapter
from support.command import flexinfer
from support.packed import require_packed_kernels
from support.projector import write_projector
from support.served import serving
from support.tiny_model import TinyModel
from support.workers import free_port, worker

from flexinfer import __version__
from flexinfer.cli import main

Check = Callable[["Asked"], None]
_CHECKS: dict[tuple[str, str], Check] = {}


class Asked:
    """Calls a command with a tiny model, and what else words may name."""

    def __init__(self, name: str, model: Path, folder: Path) -> None:
        self.name = name
        self.model = model
        self.folder = folder

    def out(self, *words: object, text: str = "") -> str:
        """Standard output of the command with `words`, which has to go well."""
        done = CliRunner().invoke(main._group, [self.name, *map(str, words)], input=text)
        assert done.exit_code == 0, done.output
        return done.stdout

    def answer(self, *words: object) -> str:
        """What `run` or `chat` answers."""
        limits = () if {"--memory", "--weight-memory"} & set(words) else ("--weight-memory", "2M")
        length = () if "-n" in words else ("-n", 8)
        cold = () if {"--temp", "--seed"} & set(words) else ("--temp", 0)
        given = (self.model, *limits, *length, *cold, *words)
        if self.name == "chat":
            return self.out(*given, text="one\n")
        prompt = () if {"-p", "-f"} & set(words) else ("-p", "one")
        return self.out(*given, *prompt)

    def document(self, *words: object) -> Any:
        """What `run` or `plan` says as JSON."""
        if self.name == "run":
            return json.loads(self.answer(*words, "--json"))
        return json.loads(self.out(self.model, *words, "--json"))

    def planned(self, *words: object) -> Any:
        """The plan for the same words, which `run` and `chat` carry out."""
        speaks = ("--as", "chat") if self.name == "chat" else ()
        plan = Asked("plan", self.model, self.folder)
        return plan.document(*speaks, *words)["plan"]

    def file(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path


def check(commands: str, *options: str) -> Callable[[Check], Check]:
    """The test of these options of these commands."""

    def register(test: Check) -> Check:
        for command in commands.split():
            _CHECKS.update({(command, option): test for option in options})
        return test

    return register


def once(test: Check) -> Check:
    """One run for all options that are checked in it."""
    went_well: list[str] = []

    def run(asked: Asked) -> None:
        if asked.name not in went_well:
            test(asked)
            went_well.append(asked.name)

    return run


def _options() -> Iterator[tuple[str, str]]:
    """Each option of each command, as click knows them; help is the group's."""
    assert isinstance(main._group, click.Group)
    context = click.Context(main._group)
    for name in main._group.list_commands(context):
        command = main._group.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for option in (*parameter.opts[-1:], *parameter.secondary_opts):
                    yield name, option


@pytest.mark.parametrize(("command", "option"), sorted(_options()))
def test_an_option_says_what_it_does(
    command: str, option: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    _CHECKS[command, option](Asked(command, tiny_model("tiny-llama"), tmp_path))


def test_the_group_itself() -> None:
    done = CliRunner().invoke(main._group, ["--version"])
    assert done.stdout == f"flexinfer, version {__version__}\n"
    for words in (["--help"], ["run", "-h"]):
        assert "Usage" in CliRunner().invoke(main._group, words).stdout


# -- what a model is held in -----------------------------------------------------------------------


@check("run chat plan", "--memory")
def _memory(asked: Asked) -> None:
    assert asked.planned("--memory", "1GiB")["request"]["budget"] == 1 << 30
    if asked.name == "run":
        assert asked.document("--memory", "1GiB")["memory"]["budget"] == 1 << 30
    elif asked.name == "chat":
        assert asked.answer("--memory", "1GiB").strip()


@check("run chat plan demo", "--weight-memory")
def _weight_memory(asked: Asked) -> None:
    if asked.name == "demo":
        assert "nothing streams" in asked.out("--weight-memory", "1GiB", "-n", 3)
        assert "streamed per token" in asked.out("--weight-memory", "1MiB", "-n", 3)
        return
    assert asked.planned("--weight-memory", "1MiB")["request"]["weight_memory"] == 1 << 20
    if asked.name == "run":
        held = asked.document("--weight-memory", "1MiB")["memory"]
        assert held["locked"] + held["window"] <= 1 << 20
    if asked.name != "plan":
        assert asked.answer("--weight-memory", "1MiB") == asked.answer("--weight-memory", "1GiB")


@check("run chat plan", "--mirror")
def _mirror(asked: Asked) -> None:
    copy = Path(shutil.copy(asked.model, asked.folder / "copy.gguf"))
    if asked.name != "plan":
        assert asked.answer("--mirror", copy) == asked.answer()
    if asked.name != "chat":
        drives = asked.document("--mirror", copy)["drives"]
        assert [drive["path"] for drive in drives] == [str(asked.model), str(copy)]
        assert all(drive["rate"] > 0 for drive in drives)


@check("run chat plan", "--ctx")
def _ctx(asked: Asked) -> None:
    assert asked.planned("--ctx", 320)["ctx"] == 320
    if asked.name == "run":
        assert asked.document("--ctx", 320)["ctx"] == {"asked": 320, "got": 320}
    elif asked.name == "chat":
        # An answer is as long as there is room for it.
        assert len(asked.answer("--ctx", 256, "-n", 400)) < len(asked.answer("-n", 400))


@check("run chat plan", "--threads")
def _threads(asked: Asked) -> None:
    if asked.name == "plan":
        assert asked.planned("--threads", 1)["ctx"] == asked.planned("--threads", 2)["ctx"]
        assert asked.out(asked.model, "--threads", 1)
    else:
        assert asked.answer("--threads", 1) == asked.answer("--threads", 2) != "\n"


@check("run chat plan", "--ubatch")
def _ubatch(asked: Asked) -> None:
    assert asked.planned("--ubatch", 48)["ubatch"] == 48
    if asked.name == "run":
        assert asked.document("--ubatch", 48)["ubatch"] == {"asked": 48, "got": 48}
    elif asked.name == "chat":
        assert asked.answer("--ubatch", 48).strip()


@check("run chat plan", "--kv-type")
def _kv_type(asked: Asked) -> None:
    small, large = (asked.planned("--kv-type", kind)["costs"]["kv"] for kind in ("q8_0", "f16"))
    assert small < large
    if asked.name == "run":
        held = [asked.document("--kv-type", kind)["memory"]["kv"] for kind in ("q8_0", "f16")]
        assert held == [small, large]
    elif asked.name == "chat":
        assert asked.answer("--kv-type", "q8_0").strip()


@check("run chat plan", "--rpc")
def _rpc(asked: Asked) -> None:
    with worker("150MiB") as one:
        words = ("--weight-memory", "1MiB", "--rpc", one.endpoint)
        (share,) = asked.planned(*words)["request"]["split"]["after"]
        # How many pay depends on how fast this machine was when it was measured.
        assert share["name"] == one.endpoint
        assert 0 < share["layers"] <= 5
        if asked.name != "plan":
            assert asked.answer(*words) == asked.answer("--weight-memory", "1MiB", "--no-repack")


@check("run chat plan", "--gpu-layers")
def _gpu_layers(asked: Asked) -> None:
    """Nothing here has a card: see `test_workers` for what stands in for one."""
    assert asked.planned("--gpu-layers", 0)["request"]["split"] is None
    if asked.name != "plan":
        assert asked.answer("--gpu-layers", 0) == asked.answer()


@check("run chat plan", "--strategy")
def _strategy(asked: Asked) -> None:
    assert asked.planned("--strategy", "sync")["lookahead"] is False
    if asked.name != "plan":
        assert asked.answer("--strategy", "sync") == asked.answer("--strategy", "flex")


@check("run chat plan", "--window")
def _window(asked: Asked) -> None:
    words = ("--weight-memory", "2MiB", "--window", "700KiB")
    planned = asked.planned(*words)["window"]
    assert planned >= 700 << 10
    if asked.name == "run":
        assert asked.document(*words)["memory"]["window"] == pytest.approx(planned, rel=0.1)
    elif asked.name == "chat":
        assert asked.answer(*words) == asked.answer()


@check("run chat plan", "--flash-attn", "--no-flash-attn")
def _flash_attention(asked: Asked) -> None:
    costs = [
        asked.planned("--ctx", 4096, way)["costs"] for way in ("--flash-attn", "--no-flash-attn")
    ]
    assert costs[0]["compute"] < costs[1]["compute"]
    if asked.name == "run":
        on, off = (
            asked.document("--ctx", 4096, "--ubatch", 128, way)["memory"]["compute"]
            for way in ("--flash-attn", "--no-flash-attn")
        )
        assert on < off
    elif asked.name == "chat":
        assert asked.answer("--flash-attn").strip()
        assert asked.answer("--no-flash-attn").strip()


@check("run chat plan", "--repack", "--no-repack")
def _repack(asked: Asked) -> None:
    if asked.name == "chat":
        assert asked.answer("--repack").strip()
        assert asked.answer("--no-repack").strip()
        return
    assert asked.document("--no-repack")["kernels"] == "plain"
    assert asked.document("--repack")["kernels"] in ("packed", "plain")


# -- prompts ---------------------------------------------------------------------------------------


@check("run", "--prompt", "--file")
def _prompt(asked: Asked) -> None:
    found = asked.answer("-p", "one")
    assert found != asked.answer("-p", "two")
    assert found == asked.answer("-f", asked.file("prompt", "one"))
    assert found == asked.out(asked.model, *("-n", 8, "--temp", 0), "--memory", "1G", text="one")


@check("run chat", "-n")
def _tokens(asked: Asked) -> None:
    short, long = asked.answer("-n", 3), asked.answer("-n", 12)
    assert len(short) < len(long)
    assert long.startswith(short.rstrip("\n"))
    if asked.name == "run":
        assert asked.document("-n", 3)["generated_tokens"] == 3


@check("run chat", "--draft")
def _drafted(asked: Asked) -> None:
    assert asked.answer("--draft", "ngram") == asked.answer("--draft", "off")
    if asked.name == "run":
        assert asked.document("--draft", "ngram", "-n", 40)["drafts"]["passes"] > 0
        assert "drafts" not in asked.document("--draft", "off")
        by_model = asked.document("--draft", asked.model, "-n", 40)
        assert by_model["memory"]["draft"] > 0
        assert by_model["text"] == asked.document("-n", 40)["text"]


@check("plan", "--draft", "--acceptance")
def _draft_planned(asked: Asked) -> None:
    assert "drafts" not in asked.document("--draft", "off")
    for draft in ("ngram", asked.model):
        words = ("--memory", "1G", "--draft", draft, "--acceptance")
        none, half, all_right = (asked.document(*words, share)["drafts"] for share in (0, 0.5, 1))
        assert (none["drafted"], none["tokens_per_pass"]) == (0, 1.0)
        assert none["expected_tok_s"] <= half["expected_tok_s"] <= all_right["expected_tok_s"]
        assert all_right["acceptance"] == 1.0
        assert ("draft_model" in half) == (draft == asked.model)


@check("run", "--chat")
def _chat(asked: Asked) -> None:
    written = "### user:\none\n\n### assistant:\n"
    assert asked.answer("--chat") == asked.answer("-p", written) != asked.answer()
    same = Asked("chat", asked.model, asked.folder)
    assert same.answer() == asked.answer("--chat")


@check("run chat", "--lora")
def _lora(asked: Asked) -> None:
    adapter = write_adapter(asked.folder / "lora.gguf", strength=64.0)
    assert asked.answer("--lora", adapter) != asked.answer()


@check("run chat", "--grammar")
def _grammar(asked: Asked) -> None:
    grammar = asked.file("g", 'root ::= "to be" | "not to be"')
    assert asked.answer("--grammar", grammar, "-n", 40) in ("to be\n", "not to be\n")


@check("run chat", "--json-schema")
def _schema(asked: Asked) -> None:
    schema = asked.file("s", json.dumps({"enum": ["red", "green"]}))
    assert json.loads(asked.answer("--json-schema", schema, "-n", 40)) in ("red", "green")


@check("run", "--mmproj", "--image")
def _image(asked: Asked) -> None:
    projector = write_projector(asked.folder / "mmproj.gguf", 256)
    image = asked.folder / "image.png"
    pixels = np.random.default_rng(7).integers(0, 255, (56, 56, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    alone = asked.document("--chat", "--mmproj", projector)
    seen = asked.document("--mmproj", projector, "--image", image)
    assert seen["prompt_tokens"] >= alone["prompt_tokens"] + 16
    assert seen["generated_tokens"] > 0
    assert seen["text"] != alone["text"]
    assert asked.answer("--mmproj", projector, "--image", image) == seen["text"] + "\n"


@check("chat", "--system")
def _system(asked: Asked) -> None:
    assert asked.answer("--system", "be brief") != asked.answer()


@check("chat", "--session")
def _session(asked: Asked) -> None:
    session = asked.folder / "s.json"
    first, second = asked.answer("--session", session), asked.answer("--session", session)
    said = [m["content"] for m in json.loads(session.read_text())["messages"]]
    assert said == ["one", first.rstrip("\n"), "one", second.rstrip("\n")]


@check("chat", "--speed", "--no-speed")
def _speed(asked: Asked) -> None:
    assert asked.answer("--speed") == asked.answer("--no-speed") != "\n"


# -- how tokens are chosen -------------------------------------------------------------------------


@check("run chat", "--temp")
def _temp(asked: Asked) -> None:
    assert asked.answer("--temp", 0, "--seed", 1) == asked.answer("--temp", 0, "--seed", 2)
    assert asked.answer("--temp", 5, "--seed", 1) != asked.answer("--temp", 0)


@check("run chat", "--top-k", "--top-p", "--min-p")
def _narrow(asked: Asked) -> None:
    likeliest = asked.answer("--temp", 0)
    for words in (("--top-k", 1), ("--top-p", 0), ("--min-p", 1)):
        assert asked.answer("--temp", 5, "--seed", 1, *words) == likeliest, words


@check("run chat demo", "--seed")
def _seed(asked: Asked) -> None:
    if asked.name == "demo":
        texts = [asked.out("--seed", seed, "-n", 12).partition("ROMEO:")[2] for seed in (0, 0, 1)]
        texts = [text.partition("streamed:")[0] for text in texts]
    else:
        texts = [asked.answer("--temp", 2, "--seed", seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    if asked.name == "run":
        drawn = asked.document("--temp", 2)["seed"]
        assert asked.document("--temp", 2)["seed"] != drawn
        again = asked.document("--temp", 2, "--seed", drawn)
        assert again["seed"] == drawn
        assert asked.answer("--temp", 2, "--seed", drawn) == again["text"] + "\n"


@check("run chat", "--stop")
def _stop(asked: Asked) -> None:
    whole = asked.answer().rstrip("\n")
    stop = whole[4:6]
    assert asked.answer("--stop", stop) == whole.partition(stop)[0] + "\n"


# -- what is told ----------------------------------------------------------------------------------


@check("run chat plan", "--quiet", "--verbose")
def _loudness(asked: Asked) -> None:
    if asked.name == "plan":
        words = (asked.model, "--weight-memory", "2MiB")
        assert len(asked.out(*words, "-v")) > len(asked.out(*words))
        return
    assert asked.answer("-v") == asked.answer() != "\n"
    if asked.name == "run":
        assert asked.answer("-q") == asked.answer()


@check("run plan doctor", "--json")
def _json(asked: Asked) -> None:
    if asked.name == "doctor":
        assert {"topic", "good", "text", "advice"} <= set(json.loads(asked.out("--json"))[0])
    elif asked.name == "plan":
        assert asked.document()["architecture"] == "llama"
    else:
        assert asked.document()["text"] + "\n" == asked.answer()


@check("plan", "--as", "--prompt-tokens", "-n")
def _speaks_for(asked: Asked) -> None:
    assert asked.document("--as", "chat")["ctx"] == 4096
    assert asked.document("--prompt-tokens", 1000)["ctx"] == 1280
    assert asked.document("--prompt-tokens", 1000, "-n", 300)["ctx"] == 1536


@check("plan", "--for", "--curve")
def _rates(asked: Asked) -> None:
    assert "2 tokens/s need --memory " in asked.out(asked.model, "--for", "2tok/s")
    assert "◂ this plan" in asked.out(asked.model, "--curve")
    assert len(asked.document("--curve")["curve"]) > 3


@check("plan", "--slots")
def _slots(asked: Asked) -> None:
    one, two = (asked.document("--slots", slots)["plan"]["costs"]["kv"] for slots in (1, 2))
    assert two > one


@check("plan", "--png")
def _png(asked: Asked) -> None:
    picture = asked.folder / "plan.png"
    words = (asked.model, "--weight-memory", "2MiB")
    assert asked.out(*words, "--png", picture) == asked.out(*words)
    assert picture.read_bytes().startswith(b"\x89PNG")


@check("demo", "--prompt", "-n")
def _demo(asked: Asked) -> None:
    said = asked.out("-p", "JULIET:\n", "-n", 5)
    assert "JULIET:\n" in said
    assert "streamed: 5 tokens" in said
    assert "all 5 tokens are the same" in said


@check("pack", "--force")
def _pack(asked: Asked) -> None:
    require_packed_kernels()
    out = asked.folder / "copy"
    model = Asked("synth", asked.model, asked.folder)
    quantised = asked.folder / "q4_0.gguf"
    model.out("tiny-llama", quantised)
    assert asked.out(quantised, out).startswith(f"{out}  2.4")
    first = out.read_bytes()
    model.out("tiny-llama", quantised, "--force", "--seed", 1)
    asked.out(quantised, out, "--force")
    assert out.read_bytes() != first


@check("synth", "--quant", "--seed", "--split", "--force")
def _synth(asked: Asked) -> None:
    path = asked.folder / "m.gguf"
    small, large = (
        asked.out("tiny-llama", path, "--force", "--quant", quant) for quant in ("q4_0", "f16")
    )
    assert small.startswith(f"{path}  2.4")
    assert large != small
    first = path.read_bytes()
    assert asked.out("tiny-llama", path, "--force", "--quant", "f16", "--seed", 1) == large
    assert path.read_bytes() != first
    assert len(asked.out("tiny-llama", path, "--split", 3).splitlines()) == 3


@check(
    "bench",
    *("--budgets", "--strategy", "--drive", "--cores", "--window", "--rounds", "--prompt", "-n"),
    *("--seconds", "--disturbance", "--ctx", "--repack", "--no-repack", "--out", "--report-only"),
)
def _bench(asked: Asked) -> None:
    """One run with all of them; each then stands in the results that the command names."""
    words = (asked.model, "--out", asked.folder / "out")
    small = ("--budgets", "300MiB", "--strategy", "sync", "--drive", "native", "--cores", "1")
    sizes = ("--window", "1M", "--rounds", "1", "--prompt", "5", "-n", "3", "--ctx", "64")
    said = asked.out(*words, *small, *sizes, "--seconds", "5", "--disturbance", "1", "--no-repack")
    results, *reports = said.split()
    assert results.startswith(str(asked.folder / "out"))
    found = json.dumps(json.loads(Path(results).read_text()))
    for part in ('"sync"', '"prompt": 5', '"tokens": 3', '"ctx": 64', '"cores": 1'):
        assert part in found
    before = Path(reports[0]).read_text()
    Path(reports[0]).unlink()
    assert asked.out(*words, "--report-only") == said
    assert Path(reports[0]).read_text() == before


@check("bench", "--slots")
def _bench_slots(asked: Asked) -> None:
    words = ("--out", asked.folder / "out", "--budgets", "300MiB", "--strategy", "sync")
    small = ("--cores", "1", "--rounds", "1", "-n", "3", "--ctx", "64", "--seconds", "5")
    said = asked.out(asked.model, *words, "--drive", "native", *small, "--slots", "2")
    (model,) = json.loads(Path(said.split()[0]).read_text())["models"].values()
    (together,) = model["together"]
    # Streams of a model this small may be over before they are counted.
    assert together["slots"] == 2


# -- serving until the end -------------------------------------------------------------------------


@check(
    "serve",
    *("--slots", "--memory", "--ctx", "--threads", "--ubatch", "--kv-type", "--strategy"),
    *("--window", "--flash-attn", "--no-repack", "--mirror", "--gpu-layers", "--draft", "--host"),
    *("--port", "--api-key", "--cors-origins", "--alias", "--lora", "--idle-release", "--json"),
    "--end-with-fd",
)
@once
def _serve(asked: Asked) -> None:
    copy = Path(shutil.copy(asked.model, asked.folder / "copy.gguf"))
    adapter, port = write_adapter(asked.folder / "lora.gguf", strength=64.0), free_port()
    sizes = ("--slots", 2, "--memory", "300MiB", "--ctx", 320, "--ubatch", 64, "--threads", 1)
    held = ("--kv-type", "q8_0", "--strategy", "sync", "--window", "700KiB", "--flash-attn")
    placed = ("--no-repack", "--mirror", copy, "--gpu-layers", 0, "--lora", adapter)
    asks = ("--host", "127.0.0.1", "--port", port, "--api-key", "secret", "--alias", "nickname")
    pages = ("--cors-origins", "https://page.example", "--idle-release", "1h", "--draft", "ngram")
    theirs, ours = os.pipe()
    ends = ("--end-with-fd", theirs)
    with serving(
        asked.model, *sizes, *held, *placed, *asks, *pages, *ends, keep=(theirs,)
    ) as server:
        os.close(theirs)
        ready = server.ready
        assert ready["address"] == f"http://127.0.0.1:{port}"
        assert (ready["slots"], ready["slot_ctx"], ready["ubatch"]) == (2, 320, 64)
        assert (ready["budget"], ready["kernels"]) == (300 << 20, "plain")
        assert [drive["path"] for drive in ready["drives"]] == [str(asked.model), str(copy)]
        assert server.get("/v1/completions")[0] in (401, 404)
        server.key = "secret"
        assert server.get("/v1/models")[1]["data"][0]["id"] == "nickname"
        assert [one["path"] for one in server.get("/lora-adapters")[1]] == [str(adapter)]
        origin = {"Origin": "https://page.example"}
        _, headers, _ = server.request("GET", "/health", headers=origin)
        assert headers["Access-Control-Allow-Origin"] == "https://page.example"
        assert server.get("/engine/plan")[1]["lookahead"] is False
        os.close(ours)
        server.process.wait(10)


@check("serve", "--weight-memory", "--no-flash-attn", "--repack", "--rpc")
@once
def _serve_in_little(asked: Asked) -> None:
    with worker("150MiB") as one:
        words = ("--weight-memory", "1MiB", "--no-flash-attn", "--ctx", 128)
        with serving(asked.model, *words, "--rpc", one.endpoint) as server:
            assert one.endpoint in server.ready["mode"]
    with serving(asked.model, *words, "--repack") as server:
        assert "streamed per token" in server.ready["mode"]
        assert server.ready["kernels"] in ("packed", "plain")


@check("serve", "--embeddings")
def _serve_vectors(asked: Asked) -> None:
    with serving(asked.model, "--embeddings", "--ctx", 128, "--", "--pooling", "mean") as server:
        (found,) = server.post("/v1/embeddings", {"input": "one"})[1]["data"]
        assert len(found["embedding"]) == 256


@check("serve", "--mmproj")
def _serve_images(asked: Asked) -> None:
    projector = write_projector(asked.folder / "mmproj.gguf", 256)
    with serving(asked.model, "--mmproj", projector, "--ctx", 128) as server:
        assert server.get("/props")[1]["modalities"]["vision"]


@check("serve", "--build")
def _build(asked: Asked) -> None:
    """Where it is built is told by the log; that it builds, by what made this one."""
    built: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flexinfer.serve.library.build", built.append)
        assert asked.out("--build") == ""
    assert [folder.name for folder in built] == ["server"]


@check(
    "batch",
    *("--slots", "--memory", "--ctx", "--threads", "--ubatch", "--kv-type", "--strategy"),
    *("--window", "--flash-attn", "--no-repack", "--mirror", "--gpu-layers", "--draft", "--lora"),
    *("--quiet", "--json", "--weight-memory", "--no-flash-attn", "--repack", "--rpc"),
)
@once
def _batch(asked: Asked) -> None:
    body = {"prompt": "one", "max_tokens": 4, "temperature": 0}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    source = asked.file("in.jsonl", json.dumps(request) + "\n")
    copy = Path(shutil.copy(asked.model, asked.folder / "copy.gguf"))
    adapter = write_adapter(asked.folder / "lora.gguf", strength=64.0)

    def answer(name: str, *words: object) -> str:
        out = asked.folder / name
        given = (source, out, asked.model, "--ctx", 128, "--json", "--quiet", *words)
        done = flexinfer("batch", *given)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["answered"] == 1
        assert "slot" not in done.stderr
        (record,) = map(json.loads, out.read_text().splitlines())
        return str(record["response"]["body"]["choices"][0]["text"])

    sizes = ("--slots", 1, "--memory", "300MiB", "--ubatch", 64, "--threads", 1, "--window", "700K")
    held = ("--strategy", "sync", "--flash-attn", "--no-repack", "--mirror", copy)
    plain = answer("plain", "--weight-memory", "1MiB", "--no-repack", "--flash-attn")
    assert plain == answer("all", *sizes, *held, "--gpu-layers", 0, "--draft", "ngram")
    assert plain != answer("lora", "--lora", adapter, "--no-repack")
    assert answer("other", "--kv-type", "q8_0", "--repack")
    with worker("150MiB") as one:
        words = ("--weight-memory", "1MiB", "--no-flash-attn", "--rpc", one.endpoint)
        assert answer("away", *words) == answer("here", "--no-flash-attn", "--no-repack")


@check("worker", "--memory", "--host", "--port", "--threads", "--cache", "--json")
@once
def _worker(asked: Asked) -> None:
    """`worker` names the others: it is started with all of them, and says one line."""
    folder, port = asked.folder / "cache", free_port()
    with worker("150MiB", "--host", "127.0.0.1", "--cache", str(folder), port=port) as one:
        assert one.endpoint == f"127.0.0.1:{port}"
        assert 0 < one.memory < 150 << 20
        assert folder.is_dir()
        with worker("200MiB") as other:
            assert other.memory - one.memory == pytest.approx(50 << 20, rel=0.1)
