"""A packed copy of a model: the bits of the model itself, nothing packed, what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.architectures import tiny
from support.command import flexinfer as command
from support.decoding import Scenario, decode_all, decode_plainly
from support.packed import require_packed_kernels
from support.quantised import FTYPES, quantised
from support.real_model import real_model
from support.served import serving
from support.tiny_model import TinyModel

import flexinfer
from flexinfer import Llama
from flexinfer.errors import (
    EngineError,
    ModelFileError,
    ReadError,
    RequestError,
    UnsupportedError,
)
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.header import MAGIC
from flexinfer.gguf.packed_file import MARK
from flexinfer.native.packing import Packing
from flexinfer.planning.expert_slots import Needs
from flexinfer.synth.write import write_model

pytestmark = pytest.mark.usefixtures("no_leaks")

SCENARIOS = (Scenario(prompts=(40,)), Scenario(prompts=(1, 2, 33), ubatch=32, flash_attn=True))


@pytest.fixture(scope="module", autouse=True)
def packs() -> None:
    require_packed_kernels()


@pytest.fixture
def never_packed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has packing fail from when it is called on."""

    def pack(self: Packing, address: int, nbytes: int) -> None:
        raise EngineError(f"{nbytes} bytes were packed")

    return lambda: monkeypatch.setattr(Packing, "pack", pack)


def opener(path: Path, memory: int | str, *copies: Path) -> Callable[[dict[str, Any]], Llama]:
    def ours(options: dict[str, Any]) -> Llama:
        return Llama(
            str(path), weight_memory=memory, repack=True, mirrors=copies, verbose=False, **options
        )

    return ours


def least_memory(path: Path) -> int:
    with Llama(str(path), weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        return Needs.of(llm.plan.weights).least


def assert_same_bits(path: Path, folder: Path) -> None:
    """Those of stock llama.cpp, from a packed copy in the least memory and in enough."""
    (copy,) = flexinfer.pack(path, folder / "copy")
    assert copy.stat().st_size > path.stat().st_size
    stock = decode_plainly(path, SCENARIOS, folder, repack=True)
    for memory in (least_memory(path), "1GiB"):
        got = decode_all(opener(path, memory, copy), SCENARIOS)
        for expected, bits in zip(stock, got, strict=True):
            assert np.isfinite(expected.view(np.float32)).all()
            assert np.array_equal(expected, bits), memory


@pytest.mark.parametrize("ftype", FTYPES)
def test_types_and_mixed_files(tiny_model: TinyModel, ftype: str, tmp_path: Path) -> None:
    path = quantised(tiny_model("tiny-llama", "f16"), ftype, tmp_path)
    try:
        assert_same_bits(path, tmp_path)
    except UnsupportedError as error:
        pytest.skip(f"{ftype}: {error}")


@pytest.mark.parametrize("preset", ["tiny-tied", "tiny-wide", "tiny-moe", "tiny-qwen"])
def test_shapes(tiny_model: TinyModel, preset: str, tmp_path: Path) -> None:
    assert_same_bits(tiny_model(preset, "q4_0"), tmp_path)


@pytest.mark.parametrize("name", ["gpt-oss-moe", "qwen3next-moe", "deepseek2-moe"])
def test_mixtures(name: str, tmp_path: Path) -> None:
    assert_same_bits(quantised(tiny.write(name, tmp_path), "q4_0", tmp_path), tmp_path)


def test_a_real_file_of_mixed_types(tmp_path: Path) -> None:
    path = real_model()
    if path is None:
        pytest.skip("the real model is not here; fetch it with: python -m support.real_model")
    assert_same_bits(path, tmp_path)


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("tiny-llama", "q4_0")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return flexinfer.pack(model, tmp_path / "copy")[0]


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_nothing_is_packed_once_it_is_open(
    tiny_model: TinyModel, preset: str, tmp_path: Path, never_packed: Callable[[], None]
) -> None:
    path = tiny_model(preset, "q4_0")
    (copy,) = flexinfer.pack(path, tmp_path / "copy")
    least = least_memory(path)
    with (
        opener(path, least, copy)({"n_ctx": 64}) as llm,
        opener(path, least)({"n_ctx": 64}) as bare,
    ):
        never_packed()
        llm.eval([3, 17, 101])
        assert [use.path for use in llm.drives] == [str(copy)]
        assert llm.drives[0].bytes_read > 0
        with pytest.raises(ReadError, match="bytes were packed"):
            bare.eval([3, 17, 101])


def test_a_plan_from_the_header_is_that_of_the_open_model(model: Path, copy: Path) -> None:
    given: dict[str, Any] = {"weight_memory": "1MiB", "n_ctx": 256, "n_threads": 2}
    foretold = flexinfer.plan(model, **given, mirrors=[copy])
    with opener(model, "1MiB", copy)({"n_ctx": 256, "n_threads": 2}) as llm:
        assert llm.plan.rates.kernels == foretold.rates.kernels
        assert llm.plan.rates.drives == foretold.rates.drives == ()
        assert llm.plan.packing_s == foretold.packing_s == 0


def test_a_split_model_has_a_split_copy(tmp_path: Path) -> None:
    paths = write_model("tiny-llama", tmp_path / "m.gguf", "q4_0", split=3)
    folder = tmp_path / "copy"
    folder.mkdir()
    copies = flexinfer.pack(paths[0], folder / "m.gguf")
    assert [copy.name for copy in copies] == [path.name for path in paths]
    (stock,) = decode_plainly(paths[0], SCENARIOS[:1], tmp_path, repack=True)
    for given in (folder, copies[0]):
        (got,) = decode_all(opener(paths[0], "1MiB", given), SCENARIOS[:1])
        assert np.array_equal(stock, got)


def test_two_drives_with_packed_copies(model: Path, copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(copy, tmp_path / "other"))
    (stock,) = decode_plainly(model, SCENARIOS[:1], tmp_path, repack=True)
    (got,) = decode_all(opener(model, "1MiB", copy, other), SCENARIOS[:1])
    assert np.array_equal(stock, got)
    with opener(model, "1MiB", copy, other)({"n_ctx": 64}) as llm:
        llm.eval([3, 17, 101])
        assert [use.path for use in llm.drives] == [str(copy), str(other)]
        assert all(use.bytes_read for use in llm.drives)


def test_a_server_reads_it(model: Path, copy: Path) -> None:
    asked = {"prompt": [5, 9, 11], "n_predict": 12, "temperature": 0.0}
    written = []
    for options in ((), ("--mirror", copy)):
        sizes = ("--weight-memory", "1MiB", "--ctx", 256, "--repack", *options)
        with serving(model, *sizes) as served:
            written.append(served.complete(**asked)["content"])
            assert served.get("/engine/plan")[1]["streamed_bytes"] > 0
            descriptors = Path(f"/proc/{served.process.pid}/fd").iterdir()
            opened = {os.path.realpath(one) for one in descriptors}
            assert (str(copy) in opened) is bool(options)
    assert written[0] == written[1]


def test_a_copy_that_is_written_to_ends_the_answer_and_no_more(model: Path, copy: Path) -> None:
    with opener(model, "1MiB", copy)({"n_ctx": 64}) as llm:
        llm.eval([3, 17, 101])
        os.truncate(copy, 4096)
        with pytest.raises(ReadError, match=str(copy)):
            llm.eval([9])
    with opener(model, "1MiB")({"n_ctx": 64}) as llm:
        llm.eval([3, 17, 101])


# -- what is refused ------------------------------------------------------------------------------


def cut(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size - 1)


def cut_to_the_model(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def patch(copy: Path, at: int, bits: int = 1) -> None:
    with copy.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ bits]))


def other_header(copy: Path) -> None:
    patch(copy, 60)


def other_names(copy: Path) -> None:
    patch(copy, -14, 0x7F)


def other_weights(copy: Path) -> None:
    """As packed on another processor: no such row is as it should be, and all else is."""
    whole = bytearray(copy.read_bytes())
    whole[: len(MARK)] = MAGIC
    copy.write_bytes(whole)
    for tensor in read_catalogue(copy).tensors:
        if tensor.name.startswith("blk.") and tensor.type.name == "q4_0":
            for at in range(tensor.offset, tensor.offset + tensor.nbytes):
                whole[at] ^= 0x55
    whole[: len(MARK)] = MARK
    copy.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "of another model, or was cut short"),
        (cut_to_the_model, "of another model, or was cut short"),
        (other_header, "its header differ"),
        (other_names, "names of its packed weights are damaged"),
        (other_weights, "is packed in another way than llama.cpp does it on this processor"),
    ],
)
def test_what_is_no_packed_copy_of_it_is_refused(
    model: Path, copy: Path, change: Callable[[Path], None], words: str
) -> None:
    change(copy)
    with pytest.raises(ModelFileError, match=words) as refused:
        opener(model, "1MiB", copy)({"n_ctx": 64})
    assert str(copy) in str(refused.value)
    assert str(refused.value).endswith("; write it again with flexinfer pack")
    assert "\n" not in str(refused.value)


def test_a_copy_of_another_model_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    one, two = (
        write_model("tiny-llama", tmp_path / f"{seed}.gguf", "q4_0", seed=seed)[0]
        for seed in (1, 2)
    )
    (copy,) = flexinfer.pack(two, tmp_path / "copy")
    with pytest.raises(ModelFileError):
        opener(one, "1MiB", copy)({"n_ctx": 64})


def test_what_does_not_go_with_it_is_refused(model: Path, copy: Path, tmp_path: Path) -> None:
    plain = Path(shutil.copy(model, tmp_path / "plain.gguf"))
    attempts: list[tuple[dict[str, Any], str]] = [
        ({"mirrors": [copy, plain]}, "do not have the same weights packed"),
        ({"mirrors": [copy], "repack": False}, "is packed for kernels that are not used without"),
        ({"mirrors": [copy], "rpc": "127.0.0.1:1"}, "nor with workers"),
        ({"mirrors": [copy, copy]}, "is the same file as"),
    ]
    for given, words in attempts:
        with pytest.raises(RequestError, match=words):
            Llama(str(model), n_ctx=64, verbose=False, **given)
        with pytest.raises(RequestError, match=words):
            flexinfer.plan(model, n_ctx=64, **given)


def test_nobody_takes_it_for_a_model(copy: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is a packed copy of a model; give the model, and"):
        Llama(str(copy), verbose=False)


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_model_that_is_cut_short_meanwhile_leaves_no_copy(
    tiny_model: TinyModel, tmp_path: Path, kept: float
) -> None:
    """Within what is packed, and behind it."""
    mine = Path(shutil.copy(tiny_model("tiny-moe", "q4_0"), tmp_path / "model.gguf"))

    def cut_once(done: int, total: int) -> None:
        os.truncate(mine, int(total * kept))

    with pytest.raises(ReadError, match=r"ended at byte \d+ of \d+ while it was packed"):
        flexinfer.pack(mine, tmp_path / "copy", progress=cut_once)
    assert list(tmp_path.iterdir()) == [mine]


def test_a_name_that_is_none(model: Path, tmp_path: Path) -> None:
    split = write_model("tiny-llama", tmp_path / "m.gguf", "q4_0", split=2)[0]
    for path in (model, split):
        with pytest.raises(RequestError, match="is no name of a file"):
            flexinfer.pack(path, "")
        refused = command("pack", path, "")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == "flexinfer: '.' is no name of a file; give one, as model.gguf\n"


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        ("model.gguf", RequestError, "is the model itself"),
        ("missing/copy", OSError, "missing"),
        ("folder", OSError, "folder"),
    ],
)
def test_where_it_cannot_be_written(
    model: Path, tmp_path: Path, out: str, error: type[Exception], words: str
) -> None:
    mine = Path(shutil.copy(model, tmp_path / "model.gguf"))
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words):
        flexinfer.pack(mine, tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before
    assert mine.read_bytes() == model.read_bytes()


def test_a_model_without_packed_weights_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no weights that kernels of this processor want"):
        flexinfer.pack(tiny_model("tiny-llama", "f16"), tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_a_full_drive_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RequestError, match=r"the copy has .* free; choose another folder"):
        flexinfer.pack(model, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_the_command(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    written = command("pack", model, out)
    assert (written.returncode, written.stderr) == (0, "")
    assert written.stdout.startswith(f"{out}  ")
    again = command("pack", model, out)
    assert again.returncode == 1
    assert again.stderr.startswith(f"flexinfer: {out} is there already; give another name, or --f")
    assert command("pack", model, out, "--force").returncode == 0
    for other in (model, tmp_path):
        refused = command("pack", model, other, "--force")
        assert refused.returncode in (1, 2)
        assert "Traceback" not in refused.stderr
        assert refused.stderr.count("flexinfer: ") == 1
    assert command("pack", tmp_path / "no.gguf", tmp_path / "b").returncode == 1
