"""Encrypted connections: with a certificate of its own, which clients are told to trust."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.served import serving
from support.tiny_model import TinyModel

from flexinfer.serve.library import ServerLibrary

SIZES = ("--memory", "300MiB", "--ctx", 256)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by nobody else, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl that makes certificates")
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "cert.pem", folder / "key.pem"
    wanted = "req -x509 -newkey rsa:2048 -nodes -days 2 -addext subjectAltName=IP:127.0.0.1"
    files = ["-subj", "/CN=127.0.0.1", "-out", str(pem), "-keyout", str(key)]
    subprocess.run(["openssl", *wanted.split(), *files], check=True, capture_output=True)
    return pem, key


def test_connections_are_encrypted(tiny_model: TinyModel, certificate: tuple[Path, Path]) -> None:
    if not ServerLibrary().tls:
        pytest.skip("the server was built without OpenSSL")
    pem, key = certificate
    flags = ("--", "--ssl-cert-file", pem, "--ssl-key-file", key)
    with serving(tiny_model("tiny-llama"), *SIZES, *flags) as served:
        address = served.ready["address"]
        assert address.startswith("https://127.0.0.1:")
        body = json.dumps({"prompt": [3, 4], "n_predict": 3}).encode()
        asked = urllib.request.Request(f"{address}/completion", body)
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(asked, timeout=60)
        trusting = ssl.create_default_context(cafile=str(pem))
        with urllib.request.urlopen(asked, timeout=60, context=trusting) as answer:
            assert json.load(answer)["tokens_predicted"] == 3
        plan = urllib.request.urlopen(f"{address}/engine/plan", timeout=60, context=trusting)
        with plan as answer:
            assert json.load(answer)["server"]["slots"] == 1
        plain = address.replace("https", "http")
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"{plain}/health", timeout=60)


def test_a_key_of_another_certificate_is_refused_in_a_sentence(
    tiny_model: TinyModel, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    pem, _ = certificate
    other = tmp_path / "other.pem"
    other.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    model = str(tiny_model("tiny-llama"))
    command = [sys.executable, "-m", "flexinfer", "serve", model, *map(str, SIZES), "--port", "0"]
    command += ["--", "--ssl-cert-file", str(pem), "--ssl-key-file", str(other)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no certificate with its key" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].count("flexinfer: ") == 1
