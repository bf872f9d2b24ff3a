from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import cache_dir
from robustbench_gan.data import sources
from robustbench_gan.data.sources import Wanted, obtain
from robustbench_gan.training.store import Store

WANTED = Wanted(dataset="tiny", file="tiny.bin", url="http://invalid.example/tiny.bin", system_hint="a hint")
GOOD = b"good content" * 20_000


def read(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"good"):
        raise UsageError(f"{path}: expected good content")
    return content


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Point all three places to folders of this test, and refuse the network."""
    roots = {name: tmp_path / name for name in ("user", "system", "cache")}
    roots["user"].mkdir()
    monkeypatch.setenv("RBG_DATA_DIR", str(roots["user"]))
    monkeypatch.setenv("RBG_CACHE_DIR", str(roots["cache"]))
    monkeypatch.setattr(sources, "SYSTEM_DIR", roots["system"])
    monkeypatch.setattr(sources, "fetch", refuse)
    return {
        "user": roots["user"] / "tiny",
        "system": roots["system"] / "tiny",
        "cache": roots["cache"] / "data" / "tiny",
    }


def refuse(url: str, target: Path) -> None:
    raise ConnectionError("no network here")


def put(place: Path, content: bytes, name: str = "tiny.bin") -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)


def files_under(place: Path) -> list[str]:
    return sorted(path.name for path in place.rglob("*"))


def test_the_places_are_tried_in_order(places: dict[str, Path]) -> None:
    for name in ("cache", "system", "user"):
        put(places[name], f"good {name}".encode())
        assert obtain(WANTED, read) == f"good {name}".encode()


def test_without_the_variable_the_other_places_count(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places["user"], b"good user")
    put(places["system"], b"good system")
    monkeypatch.delenv("RBG_DATA_DIR")
    assert obtain(WANTED, read) == b"good system"


def test_the_unpacked_folder_serves_as_well(places: dict[str, Path]) -> None:
    put(places["system"] / "unpacked", b"good", "inside")
    wanted = Wanted("tiny", "tiny.bin", WANTED.url, unpacked="unpacked")
    assert obtain(wanted, lambda path: path) == places["system"] / "unpacked"


@pytest.mark.parametrize("name", ["user", "system", "cache"])
def test_a_wrong_file_is_never_passed_over(name: str, places: dict[str, Path]) -> None:
    for place in places.values():
        put(place, b"good")
    for earlier in list(places)[: list(places).index(name)]:
        (places[earlier] / "tiny.bin").unlink()
    put(places[name], b"bad")
    with pytest.raises(UsageError, match="expected good content; replace or delete it") as caught:
        obtain(WANTED, read)
    assert str(places[name] / "tiny.bin") in str(caught.value)


def test_a_broken_link_is_an_error(places: dict[str, Path]) -> None:
    places["user"].mkdir()
    (places["user"] / "tiny.bin").symlink_to("nowhere")
    put(places["cache"], b"good")
    with pytest.raises(UsageError, match="expected a file that can be read") as caught:
        obtain(WANTED, read)
    assert str(places["user"]) in str(caught.value)


def test_a_variable_naming_no_directory_is_an_error(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places["cache"], b"good")
    monkeypatch.setenv("RBG_DATA_DIR", str(places["user"] / "missing"))
    with pytest.raises(UsageError, match=r"RBG_DATA_DIR is .*missing"):
        obtain(WANTED, read)


def test_offline_the_error_names_all_four_ways(places: dict[str, Path]) -> None:
    with pytest.raises(UsageError) as caught:
        obtain(WANTED, read)
    message = str(caught.value)
    for part in ("(1) set RBG_DATA_DIR", "(2) put it", "(3) put it into the cache", "(4) go online"):
        assert part in message
    named = (places["user"].parent, places["system"], places["cache"], WANTED.url, "a hint", "no network")
    for part in named:
        assert str(part) in message
    assert "\n" not in message
    assert files_under(places["cache"]) == []


def test_the_cache_follows_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RBG_CACHE_DIR", "~/cache")
    assert Store().root == tmp_path / "cache" / "artifacts"
    monkeypatch.delenv("RBG_CACHE_DIR")
    assert "robustbench-gan" in str(cache_dir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="file is no directory"):
        cache_dir()


class _Handler(BaseHTTPRequestHandler):
    """Serves good content, bad content, and content that breaks off."""

    def do_GET(self) -> None:
        bodies = {"/tiny.bin": GOOD, "/bad.bin": b"bad", "/short.bin": GOOD[:-5000]}
        body = bodies.get(self.path)
        self.send_response(200 if body is not None else 404)
        length = len(GOOD) if self.path == "/short.bin" else len(body or b"")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.undo()
    monkeypatch.setenv("RBG_CACHE_DIR", str(places["cache"].parent.parent))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("RBG_DATA_DIR", raising=False)
    monkeypatch.setattr(sources, "SYSTEM_DIR", places["system"].parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=partial(httpd.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_download_is_kept_in_the_cache(server: str, places: dict[str, Path]) -> None:
    assert obtain(Wanted("tiny", "tiny.bin", f"{server}/tiny.bin"), read) == GOOD
    assert files_under(places["cache"]) == ["tiny.bin"]
    assert obtain(Wanted("tiny", "tiny.bin", f"{server}/gone.bin"), read) == GOOD


def test_download_with_wrong_content_is_discarded(server: str, places: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"bad\.bin: the download does not hold .* expected good content"):
        obtain(Wanted("tiny", "tiny.bin", f"{server}/bad.bin"), read)
    assert files_under(places["cache"]) == []


@pytest.mark.parametrize("name", ["gone.bin", "short.bin"])
def test_download_that_fails_leaves_nothing(name: str, server: str, places: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"could not be downloaded .*\(4\) go online"):
        obtain(Wanted("tiny", "tiny.bin", f"{server}/{name}"), read)
    assert files_under(places["cache"]) == []


def test_the_bar_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with sources._Bar("tiny.bin") as bar:
        bar.total = 10
        bar.update(4)
        task = bar._progress.tasks[0]
        assert (bar.total, task.total, task.completed) == (10, 10, 4)
        bar.reset()
        assert task.completed == 0
        bar.close()
