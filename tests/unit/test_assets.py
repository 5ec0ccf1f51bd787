"""Pinned assets: the right bytes or a plain error, from a server, from a local root, and once only."""

import hashlib
import json
import re
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gateau.errors import DataError
from gateau.evaluation.assets import (
    Asset,
    AssetFolder,
    AssetTable,
    fetch_assets,
    folder_digest,
    git_blob_id,
    read_table,
)

from helpers import ROOT, run_script

TABLE = ROOT / "workflow/resources/assets.json"
CONTENT = b"Rate the answer: [[1]] to [[3]], or so\n"
ESSAYS = {"b.txt": b"Second.\n", "a.txt": b"First.\n", "B.txt": b"Capital.\n"}
QUESTIONS = Asset(
    "questions", "owner/bench", "0123abc", "data/q.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
)
CASES = Asset("cases", "owner/bench", "0123abc", "data/cases.txt", git_blob=git_blob_id(CONTENT))
FOLDER = AssetFolder(
    "essays", "owner/bench", "0123abc", "essays", 3, sum(map(len, ESSAYS.values())), folder_digest(ESSAYS)
)


class Server:
    """Raw files as GitHub serves them. ``files``: content by path; ``announced``: lengths that are not kept."""

    def __init__(self):
        self.files, self.announced, self.asked = {}, {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                if self.path not in server.files:
                    self.send_error(404)
                    return
                content = server.files[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(server.announced.get(self.path, len(content))))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.files = {f"/{asset.repository}/{asset.commit}/{asset.path}": CONTENT for asset in (QUESTIONS, CASES)}
    yield server
    server.close()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for asset in (QUESTIONS, CASES):
        (root / asset.place).parent.mkdir(parents=True, exist_ok=True)
        (root / asset.place).write_bytes(CONTENT)
    (root / FOLDER.place / "predictions").mkdir(parents=True)
    (root / FOLDER.place / "predictions/other.txt").write_text("not an essay")
    (root / FOLDER.place / "notes.md").write_text("not an essay")
    for name, content in ESSAYS.items():
        (root / FOLDER.place / name).write_bytes(content)
    return root


def table(host="http://127.0.0.1:9", files=(QUESTIONS, CASES), folders=(FOLDER,)):
    return AssetTable(host, files, folders)


def leftovers(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_committed_table_pins_every_file_and_none_of_them_is_committed():
    pinned = read_table(TABLE)
    assert pinned.host == "https://raw.githubusercontent.com"
    assert len(pinned.files) == 11
    for asset in pinned.files:
        digest = asset.sha256 or asset.git_blob
        assert re.fullmatch("[0-9a-f]+", digest)
        assert len(digest) == (64 if asset.sha256 else 40)
        assert asset.url(pinned.host) == (
            f"https://raw.githubusercontent.com/{asset.repository}/{asset.commit}/{asset.path}"
        )
    (essays,) = pinned.folders
    assert (essays.n_files, essays.n_bytes, len(essays.sha256)) == (47, 566807, 64)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in tracked for asset in pinned.files if name.endswith(asset.path)]


def test_files_are_fetched_once(server, tmp_path):
    for _ in range(2):
        places = fetch_assets(table(server.host), tmp_path / "cache", names=["questions", "cases"])
        assert [path.read_bytes() for path in places.values()] == [CONTENT, CONTENT]
        assert places["questions"] == tmp_path / "cache/owner/bench/data/q.txt"
    assert server.asked == ["/owner/bench/0123abc/data/q.txt", "/owner/bench/0123abc/data/cases.txt"]
    assert len(leftovers(tmp_path)) == 2


@pytest.mark.parametrize("asset", [QUESTIONS, CASES], ids=["sha256", "git blob id"])
def test_other_content_is_refused_and_not_kept(server, tmp_path, asset, request):
    server.files[f"/owner/bench/0123abc/{asset.path}"] = CONTENT.replace(b"1", b"2")
    kind = request.node.callspec.id
    with pytest.raises(DataError, match=rf"{asset.name}: http.* has {kind} \w+, pinned is \w+; .* try again"):
        fetch_assets(table(server.host), tmp_path, names=[asset.name])
    assert not leftovers(tmp_path)


def test_a_download_that_breaks_off_is_refused_and_not_kept(server, tmp_path):
    path = "/owner/bench/0123abc/data/q.txt"
    server.files[path] = CONTENT[:20]
    with pytest.raises(DataError, match=f"has 20 bytes, pinned are {len(CONTENT)}; the download broke off"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    server.announced[path] = len(CONTENT)
    with pytest.raises(DataError, match=r"cannot be fetched \(IncompleteRead\(20 bytes read"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    assert not leftovers(tmp_path)
    server.files[path] = CONTENT
    assert fetch_assets(table(server.host), tmp_path, names=["questions"])["questions"].read_bytes() == CONTENT


def test_a_file_that_the_host_does_not_have_asks_for_the_whole_commit(server, tmp_path):
    server.files.clear()
    with pytest.raises(DataError, match=r"404.*0123abc is only the beginning .* all 40 digits .* give a root"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    whole = replace(QUESTIONS, commit="0" * 40)
    with pytest.raises(DataError, match="404") as caught:
        fetch_assets(table(server.host, files=(whole,)), tmp_path, names=["questions"])
    assert "digits" not in str(caught.value)


def test_no_network_is_an_error_that_names_the_way_out(server, tmp_path):
    server.close()
    with pytest.raises(DataError, match=r"cannot be fetched .*give a root that holds owner/bench/data/q\.txt"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])


def test_a_root_is_all_that_is_needed(server, root, tmp_path):
    places = fetch_assets(table(server.host), tmp_path / "cache", root)
    assert list(places) == ["questions", "cases", "essays"]
    assert {path.name: path.read_bytes() for path in places["essays"].iterdir()} == ESSAYS
    assert fetch_assets(table(server.host), tmp_path / "cache") == places
    assert server.asked == []


def test_a_root_without_the_file_or_with_another_is_refused(server, root, tmp_path):
    (root / QUESTIONS.place).write_bytes(CONTENT + b"!")
    with pytest.raises(DataError, match=r"q\.txt has 40 bytes, pinned are 39; check out commit 0123abc of owner/bench"):
        fetch_assets(table(server.host), tmp_path / "cache", root)
    (root / QUESTIONS.place).unlink()
    with pytest.raises(DataError, match=r"q\.txt is absent; put the file of owner/bench at commit 0123abc there"):
        fetch_assets(table(server.host), tmp_path / "cache", root)
    assert server.asked == []
    assert not (tmp_path / "cache").exists()


def test_a_wrong_file_in_the_cache_is_neither_used_nor_replaced(server, tmp_path):
    place = tmp_path / QUESTIONS.place
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    with pytest.raises(DataError, match="has 4 bytes, pinned are 39; delete it to fetch it again"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    assert place.read_bytes() == b"mine"
    assert server.asked == []


def test_a_folder_comes_whole_from_a_root_or_not_at_all(root, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"comes only from a local copy; .*Clone owner/bench at commit 0123abc"):
        fetch_assets(table(), cache, names=["essays"])
    with pytest.raises(DataError, match=r"is absent; .*give ROOT as the root"):
        fetch_assets(table(), cache, tmp_path / "elsewhere", ["essays"])
    essay = root / FOLDER.place / "a.txt"
    essay.write_bytes(b"Fir5t.\n")
    with pytest.raises(DataError, match=r"have digest \w+, pinned is \w+; check out commit 0123abc"):
        fetch_assets(table(), cache, root, ["essays"])
    essay.unlink()
    with pytest.raises(DataError, match=r"has 2 \*\.txt of 17 bytes together, pinned are 3 of 24"):
        fetch_assets(table(), cache, root, ["essays"])
    assert not cache.exists()
    essay.write_bytes(ESSAYS["a.txt"])
    copied = fetch_assets(table(), cache, root, ["essays"])["essays"]
    assert [path.name for path in copied.parent.iterdir()] == ["essays"]
    (copied / "more.txt").write_text("")
    with pytest.raises(DataError, match=r"has 4 \*\.txt .*delete the folder to copy it again"):
        fetch_assets(table(), cache, root, ["essays"])


def test_digests_are_those_of_the_usual_tools(root):
    def shell(command):
        result = subprocess.run(
            command, shell=True, cwd=root / FOLDER.place, capture_output=True, text=True, check=True
        )
        return result.stdout.split()[0]

    assert folder_digest(ESSAYS) == shell("LC_ALL=C; export LC_ALL; sha256sum *.txt | sha256sum")
    assert git_blob_id(ESSAYS["a.txt"]) == shell("git hash-object a.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": None}, "questions needs either sha256 with n_bytes, or git_blob"),
        ({"n_bytes": None}, "questions needs either sha256 with n_bytes, or git_blob"),
        ({"git_blob": "0" * 40}, "questions needs either sha256 with n_bytes, or git_blob"),
        ({"path": "../q.txt"}, r"files\[0\]: the path must stay inside"),
        ({"commit": "main"}, r"files\[0\]: .*the commit be 7 to 40 hex digits"),
        ({"sha": "0"}, r"files\[0\] is no asset .*its keys are name, repository"),
    ],
)
def test_a_table_that_pins_nothing_is_refused(tmp_path, change, message):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"host": "http://x", "files": [{**vars(QUESTIONS), **change}], "folders": []}))
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_tables_and_names_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(DataError, match="no table of assets"):
        read_table(tmp_path / "table.json")
    (tmp_path / "table.json").write_text(json.dumps({"host": "x", "files": [vars(QUESTIONS)] * 2, "folders": []}))
    with pytest.raises(DataError, match="named twice: questions"):
        read_table(tmp_path / "table.json")
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(DataError, match="with host, files and folders"):
        read_table(tmp_path / "table.json")
    with pytest.raises(DataError, match="no such assets: poems; known are questions, cases, essays"):
        fetch_assets(table(), tmp_path, names=["poems"])


def test_the_script_as_people_use_it(root, tmp_path):
    pinned = {"host": "http://127.0.0.1:9", "files": [vars(QUESTIONS)], "folders": [vars(FOLDER)]}
    (tmp_path / "table.json").write_text(json.dumps(pinned))
    arguments = ["--table", tmp_path / "table.json", "--output", tmp_path / "cache"]
    result = run_script("assets", *arguments, "--root", root)
    assert result.returncode == 0, result.stderr
    assert "questions: verified" in result.stderr
    assert "essays: verified" in result.stderr
    result = run_script("assets", "--output", tmp_path / "cache", "--root", root, "--only", "mt_bench_judge")
    assert result.returncode == 1
    assert "mt_bench_judge" in result.stderr
    assert "is absent" in result.stderr
    assert "Traceback" not in result.stderr
