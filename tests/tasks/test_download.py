import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metarl.errors import DataError
from metarl.tasks.download import download

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves /good.zip whole, /short.zip cut, /cut.zip cut against its own length; else 404."""

    def do_GET(self):
        """Answers one request."""
        if self.path not in ("/good.zip", "/short.zip", "/cut.zip"):
            self.send_error(404)
            return
        body = CONTENT if self.path == "/good.zip" else CONTENT[:1000]
        self.send_response(200)
        length = len(body) if self.path == "/short.zip" else len(CONTENT)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Keeps the test's output clean."""


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_good_file_is_put_in_place(server, tmp_path, capsys):
    path = tmp_path / "new" / "good.zip"
    download(f"{server}/good.zip", path, DIGEST, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["good.zip"]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""  # no progress bar where there is no terminal


def test_a_progress_bar_is_drawn_on_a_terminal(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    download(f"{server}/good.zip", tmp_path / "good.zip", DIGEST, len(CONTENT))
    assert "256.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "digest", "message"),
    [
        ("good.zip", "0" * 64, f"SHA-256 {DIGEST}, expected 256000 with 0000"),
        ("short.zip", DIGEST, "gave 1000 bytes"),
        ("cut.zip", DIGEST, "gave 1000 bytes|IncompleteRead"),
        ("gone.zip", DIGEST, "404"),
    ],
)
def test_a_bad_download_leaves_nothing(server, tmp_path, name, digest, message):
    path = tmp_path / name
    with pytest.raises(DataError, match=message) as error:
        download(f"{server}/{name}", path, digest, len(CONTENT))
    assert f"{server}/{name}" in str(error.value)
    assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_download_keeps_the_file_that_was_there(server, tmp_path):
    path = tmp_path / "good.zip"
    path.write_bytes(b"before")
    with pytest.raises(DataError):
        download(f"{server}/good.zip", path, "0" * 64, len(CONTENT))
    assert path.read_bytes() == b"before"


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="Check the connection"):
        download("http://127.0.0.1:9/good.zip", tmp_path / "good.zip", DIGEST, 1)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="Cannot download"):
        download(f"{server}/good.zip", tmp_path / "file" / "good.zip", DIGEST, len(CONTENT))
