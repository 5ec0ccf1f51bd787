"""Pinned assets: right content or a plain error, from a server or an offline root, and each is fetched once."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import pytest

from gateau.digests import git_blob_id
from gateau.errors import DataError, SettingsError
from gateau.evaluation.assets import downloads
from gateau.evaluation.assets.folders import write_own, write_pinned
from gateau.evaluation.assets.pinned import fetch_assets, folder_digest
from gateau.evaluation.assets.table import Asset, AssetFolder, AssetTable, AssetZip, read_table
from gateau.evaluation.benchmarks import names
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS
from gateau.places import OWN_SETS, RESOURCES

from helpers import ROOT, run_script
from unit.file_servers import FileServer

TABLE = RESOURCES / "assets.json"
CONTENT = b"Rate the answer: [[1]] to [[3]], or so\n"
ESSAYS = {"b.txt": b"Second.\n", "a.txt": b"First.\n", "B.txt": b"Capital.\n"}
QUESTIONS = Asset(
    "questions", "owner/bench", "0123abc", "data/q.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
)
CASES = Asset("cases", "owner/bench", "0123abc", "data/cases.txt", git_blob="47be00fee669c77f9d4ad85cfb7cfbf4f013ce2d")
FOLDER = AssetFolder(
    "essays",
    "owner/bench",
    "0123abc",
    "essays",
    3,
    24,
    "c20621d4d4e71031f90aa7594c44114cc30968d4f57d41c9daee904386302c62",
)
ARCHIVE = "/owner/bench/tar.gz/0123abc"
ZIP_URL = "/datasets/data.zip"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    server = FileServer()
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


def table(host="http://127.0.0.1:9", files=(QUESTIONS, CASES), folders=(FOLDER,), zips=()):
    return AssetTable(host, host, files, folders, zips)


def leftovers(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_committed_table_pins_every_file_and_none_of_them_is_committed():
    pinned = read_table(TABLE)
    assert pinned.host == "https://raw.githubusercontent.com"
    assert pinned.archive_host == "https://codeload.github.com"
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
    assert essays.url(pinned.archive_host) == "https://codeload.github.com/S1s-Z/GATEAU/tar.gz/e6c90b3"
    (data,) = pinned.zips
    assert data.url == "https://huggingface.co/datasets/THUDM/LongBench/resolve/main/data.zip"
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
    with pytest.raises(
        DataError, match=rf"{asset.name}: http.* has {kind} \w+ instead of the pinned \w+; .* try again"
    ):
        fetch_assets(table(server.host), tmp_path, names=[asset.name])
    assert not leftovers(tmp_path)


def test_a_download_that_breaks_off_is_refused_and_not_kept(server, tmp_path):
    path = "/owner/bench/0123abc/data/q.txt"
    server.files[path] = CONTENT[:20]
    with pytest.raises(DataError, match=f"has 20 bytes instead of {len(CONTENT)}; the download broke off"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    server.announced[path] = len(CONTENT)
    server.asked.clear()
    with pytest.raises(DataError, match=r"cannot be fetched \(the connection broke off after 20 of 39 bytes"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    assert len(server.asked) == downloads.TRIES
    assert not leftovers(tmp_path)
    server.files[path] = CONTENT
    assert fetch_assets(table(server.host), tmp_path, names=["questions"])["questions"].read_bytes() == CONTENT


def test_a_file_that_the_host_does_not_have_asks_for_the_whole_commit(server, tmp_path):
    server.files.clear()
    with pytest.raises(DataError, match=r"404.*0123abc is only the beginning .* all 40 digits .* give a root"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    whole = replace(QUESTIONS, commit="0" * 40)
    server.asked.clear()
    with pytest.raises(DataError, match="404") as caught:
        fetch_assets(table(server.host, files=(whole,)), tmp_path, names=["questions"])
    assert "digits" not in str(caught.value)
    assert len(server.asked) == 1, "404 is not asked for again"


def test_a_server_that_recovers_is_asked_again(server, tmp_path):
    path = "/owner/bench/0123abc/data/q.txt"
    server.failures[path] = 2
    assert fetch_assets(table(server.host), tmp_path, names=["questions"])["questions"].read_bytes() == CONTENT
    assert len(server.asked) == 3
    server.failures[path] = 3
    with pytest.raises(DataError, match=r"cannot be fetched \(HTTP Error 503"):
        fetch_assets(table(server.host), tmp_path / "other", names=["questions"])


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
    with pytest.raises(DataError, match=r"q\.txt has 40 bytes instead of 39; put .*owner/bench at commit 0123abc"):
        fetch_assets(table(server.host), tmp_path / "cache", root)
    (root / QUESTIONS.place).unlink()
    with pytest.raises(DataError, match=r"q\.txt is absent; put the content of owner/bench at commit 0123abc there"):
        fetch_assets(table(server.host), tmp_path / "cache", root)
    assert server.asked == []
    assert not leftovers(tmp_path / "cache")


def test_a_wrong_file_in_the_cache_is_neither_used_nor_replaced(server, tmp_path):
    place = tmp_path / QUESTIONS.place
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    with pytest.raises(DataError, match="has 4 bytes instead of 39; delete it to fetch it again"):
        fetch_assets(table(server.host), tmp_path, names=["questions"])
    assert place.read_bytes() == b"mine"
    assert server.asked == []


def test_a_folder_comes_whole_from_a_root_or_not_at_all(root, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"is absent; put .*owner/bench at commit 0123abc there"):
        fetch_assets(table(), cache, tmp_path / "elsewhere", ["essays"])
    essay = root / FOLDER.place / "a.txt"
    essay.write_bytes(b"Fir5t.\n")
    with pytest.raises(DataError, match=r"have digest \w+ instead of the pinned \w+; put .*0123abc"):
        fetch_assets(table(), cache, root, ["essays"])
    essay.unlink()
    with pytest.raises(DataError, match=r"has 2 \*\.txt of 17 bytes together instead of 3 of 24"):
        fetch_assets(table(), cache, root, ["essays"])
    assert not leftovers(cache)
    essay.write_bytes(ESSAYS["a.txt"])
    copied = fetch_assets(table(), cache, root, ["essays"])["essays"]
    assert [path.name for path in copied.parent.iterdir()] == ["essays"]
    (copied / "more.txt").write_text("")
    with pytest.raises(DataError, match=r"has 4 \*\.txt .*delete it to fetch it again"):
        fetch_assets(table(), cache, root, ["essays"])


def repository_archive(members):
    """Return a tar.gz as code hosts pack a commit; ``members`` holds the content, or type and link target, by path."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0123"}) as tar:
        for path, content in members.items():
            member = tarfile.TarInfo(f"bench-0123abc/{path}")
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return packed.getvalue()


def essays_archive(**others):
    return repository_archive({f"essays/{name}": content for name, content in ESSAYS.items()} | others)


def test_a_folder_comes_out_of_the_repositorys_archive(server, tmp_path):
    server.files[ARCHIVE] = essays_archive(
        **{
            "essays/notes.md": b"not an essay",
            "essays/predictions/other.txt": b"not an essay",
            "essays/../essays/up.txt": b"not an essay",
            "other/essays/more.txt": b"not an essay",
            "essays/link.txt": (tarfile.SYMTYPE, "/etc/hostname"),
            "essays/hard.txt": (tarfile.LNKTYPE, "bench-0123abc/essays/notes.md"),
        }
    )
    for _ in range(2):
        place = fetch_assets(table(server.host), tmp_path / "cache", names=["essays"])["essays"]
        assert {path.name: path.read_bytes() for path in place.iterdir()} == ESSAYS
    assert server.asked == [ARCHIVE]
    assert len(leftovers(tmp_path)) == 3


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (essays_archive(**{"essays/c.txt": b"more"}), "have more than the pinned 24 bytes"),
        (essays_archive(**{"essays/c.txt": b""}), r"has 4 \*\.txt of 24 bytes together instead of 3"),
        (essays_archive(**{"essays/a.txt": b"Fir5t.\n"}), "have digest .*other content; try again"),
        (essays_archive()[:100], "the archive cannot be read"),
        (b"<html>", "the archive cannot be read"),
    ],
    ids=["too much", "one more", "another", "cut", "no archive"],
)
def test_another_archive_leaves_nothing(server, tmp_path, archive, message):
    server.files[ARCHIVE] = archive
    with pytest.raises(DataError, match=f"essays: .*{message}"):
        fetch_assets(table(server.host), tmp_path / "cache", names=["essays"])
    assert not leftovers(tmp_path)


def test_a_folder_that_cannot_be_fetched_names_the_way_out(server, tmp_path):
    with pytest.raises(DataError, match=r"404.* all 40 digits .*give a root that holds owner/bench/essays"):
        fetch_assets(table(server.host), tmp_path, names=["essays"])


def longbench_zip(drop=(), text="one"):
    packed = io.BytesIO()
    names = [item.name for item in DATA_SETS.values()] + [f"{i.name}_e" for i in DATA_SETS.values() if i.extended]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/../../up.jsonl", "never unpacked")
        for name in names:
            if name not in drop:
                archive.writestr(f"data/{name}.jsonl", f'{{"input": "{text} of {name}"}}\n')
    return packed.getvalue()


def zip_table(server, **pin):
    data = AssetZip("data", server.host + ZIP_URL, "owner/bench-data/data.zip", **pin)
    return table(server.host, zips=(data,))


def test_the_first_download_pins_a_zip(server, tmp_path):
    server.files[ZIP_URL] = first = longbench_zip()
    place = fetch_assets(zip_table(server), tmp_path, names=["data"])["data"]
    digest = hashlib.sha256(first).hexdigest()
    pins = json.loads((tmp_path / "pins.json").read_text())
    assert pins == {"data": {"sha256": digest, "n_bytes": len(first), "url": server.host + ZIP_URL}}
    assert fetch_assets(zip_table(server), tmp_path, names=["data"])["data"] == place
    assert server.asked == [ZIP_URL]
    server.files[ZIP_URL] = longbench_zip(text="two")
    other = hashlib.sha256(server.files[ZIP_URL]).hexdigest()
    place.unlink()
    with pytest.raises(DataError, match=rf"has sha256 {other} .*pins\.json pins {digest}"):
        fetch_assets(zip_table(server), tmp_path, names=["data"])
    assert not place.exists()
    place.write_bytes(server.files[ZIP_URL])
    with pytest.raises(DataError, match=rf"{other} .*pins\.json pins {digest}"):
        fetch_assets(zip_table(server), tmp_path, names=["data"])


def test_a_digest_in_the_table_pins_a_zip(server, tmp_path):
    server.files[ZIP_URL] = longbench_zip()
    with pytest.raises(DataError, match=f"the table of assets pins {'0' * 64}"):
        fetch_assets(zip_table(server, sha256="0" * 64), tmp_path, names=["data"])
    assert not leftovers(tmp_path)
    digest = hashlib.sha256(server.files[ZIP_URL]).hexdigest()
    fetch_assets(zip_table(server, sha256=digest), tmp_path, names=["data"])
    assert not (tmp_path / "pins.json").exists()


def test_only_zip_files_are_pinned(server, tmp_path):
    server.files[ZIP_URL] = b"<html>Please log in</html>"
    with pytest.raises(DataError, match=r"data: .* is not a zip file"):
        fetch_assets(zip_table(server), tmp_path, names=["data"])
    assert not leftovers(tmp_path)
    del server.files[ZIP_URL]
    with pytest.raises(DataError, match=r"404.*give a root that holds owner/bench-data/data\.zip"):
        fetch_assets(zip_table(server), tmp_path, names=["data"])
    with pytest.raises(DataError, match=r"bench-data/data\.zip is absent; put the file of http.*data\.zip there"):
        fetch_assets(zip_table(server), tmp_path, tmp_path / "root", ["data"])
    (tmp_path / "pins.json").write_text('{"data": "0"}')
    server.files[ZIP_URL] = longbench_zip()
    with pytest.raises(DataError, match=r"pins\.json: not the pins of earlier downloads"):
        fetch_assets(zip_table(server), tmp_path, names=["data"])


def test_digests_are_those_of_the_usual_tools(root):
    def shell(command):
        result = subprocess.run(
            command, shell=True, cwd=root / FOLDER.place, capture_output=True, text=True, check=True
        )
        return result.stdout.split()[0]

    digests = {name: hashlib.sha256(content).hexdigest() for name, content in ESSAYS.items()}
    assert folder_digest(digests) == shell("LC_ALL=C; export LC_ALL; sha256sum *.txt | sha256sum") == FOLDER.sha256
    essay = root / FOLDER.place / "a.txt"
    assert git_blob_id(essay) == shell("git hash-object a.txt")
    essay.write_bytes(CONTENT)
    assert git_blob_id(essay) == CASES.git_blob


def table_file(folder, files, folders=(), zips=(), host="http://127.0.0.1:9"):
    path = folder / "table.json"
    rows = {"files": files, "folders": [vars(one) for one in folders], "zips": [vars(one) for one in zips]}
    path.write_text(json.dumps({"host": host, "archive_host": host, **rows}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": None}, "questions needs either sha256 with n_bytes, or git_blob"),
        ({"n_bytes": None}, "questions needs either sha256 with n_bytes, or git_blob"),
        ({"git_blob": "0" * 40}, "questions needs either sha256 with n_bytes, or git_blob"),
        ({"path": "../q.txt"}, r"files\[0\]: the path must stay inside"),
        ({"commit": "main"}, r"files\[0\]: .*the commit must be 7 to 40 hex digits"),
        ({"sha": "0"}, r"files\[0\] is not an asset .*its keys are name, repository"),
    ],
)
def test_a_table_that_pins_nothing_is_refused(tmp_path, change, message):
    path = table_file(tmp_path, [{**vars(QUESTIONS), **change}])
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_tables_and_names_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "table.json")
    table_file(tmp_path, [vars(QUESTIONS)] * 2)
    with pytest.raises(DataError, match="several assets have the same name: questions"):
        read_table(tmp_path / "table.json")
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(DataError, match="with the keys host, archive_host, files, folders, zips"):
        read_table(tmp_path / "table.json")
    with pytest.raises(DataError, match="no such assets: poems; known are questions, cases, essays"):
        fetch_assets(table(), tmp_path, names=["poems"])


FOLDERS = {
    "longbench": ["dataset2maxlen.json", "dataset2prompt.json", "prompt_for_qa.txt", "prompt_for_sum.txt"],
    "longbench_chat": ["few_shots.json", "prompt_fs.txt", "test_cases.json"],
    "needle": [],
    "recall": ["prompt.txt"],
    "mt_bench": ["judge_prompts.jsonl", "question.jsonl", "reference_answer.jsonl"],
}


@pytest.fixture
def benchmarks(server):
    """Return a table under the committed names. A server has its files; the content of each is its asset's name."""
    pinned = read_table(TABLE)
    files = []
    for asset in pinned.files:
        content = asset.name.encode()
        server.files[f"/{asset.repository}/{asset.commit}/{asset.path}"] = content
        files.append(replace(asset, n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), git_blob=None))
    essays = replace(FOLDER, name="needle_essays")
    server.files[ARCHIVE] = essays_archive()
    server.files[ZIP_URL] = longbench_zip()
    data = replace(pinned.zips[0], url=server.host + ZIP_URL)
    return AssetTable(server.host, server.host, tuple(files), (essays,), (data,))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_benchmark_without_released_files_says_so(benchmarks, tmp_path):
    with pytest.raises(SettingsError, match=r"recall has no released files; set evaluate\.assets\.source: own"):
        write_pinned("recall", benchmarks, tmp_path / "cache", tmp_path / "out")


@pytest.mark.parametrize("benchmark", [name for name in names() if name != "recall"])
def test_a_benchmark_is_one_folder_of_canonical_names(benchmarks, server, tmp_path, benchmark):
    output = tmp_path / "assets" / benchmark
    for _ in range(2):
        write_pinned(benchmark, benchmarks, tmp_path / "cache", output)
        found = files_of(output)
        source = json.loads(found.pop("source.json"))
        assert (source["benchmark"], source["source"]) == (benchmark, "pinned")
        assert source["files"] == {name: hashlib.sha256(found[name]).hexdigest() for name in sorted(found)}
        assert [path.name for path in output.parent.iterdir()] == [benchmark]
    assert sorted(name for name in found if "/" not in name) == FOLDERS[benchmark]
    inside = {name.rpartition("/")[0] for name in found if "/" in name}
    assert inside == {"longbench": {"data"}, "needle": {"haystack"}}.get(benchmark, set())
    if benchmark == "longbench":
        assert len(found) - 4 == 21 + 13
        assert found["data/repobench-p_e.jsonl"] == b'{"input": "one of repobench-p_e"}\n'
    if benchmark == "needle":
        assert found == {f"haystack/{name}": content for name, content in ESSAYS.items()}
    assert len(server.asked) == len(set(server.asked)), "the second time all came from the cache"


def test_the_protocol_chooses_the_cases(benchmarks, tmp_path):
    for protocol, owner in (("gateau", "GATEAU"), ("longalign", "LongAlign")):
        write_pinned("longbench_chat", benchmarks, tmp_path / "cache", tmp_path / "out", options={"protocol": protocol})
        assert (tmp_path / "out/test_cases.json").read_text() == f"longbench_chat_cases_{protocol}"
        source = json.loads((tmp_path / "out/source.json").read_text())
        assert source["data"] == f"LongBench-Chat, test cases of {owner}"


def test_a_folder_of_assets_is_whole_or_as_it_was(benchmarks, server, tmp_path):
    output = tmp_path / "out"
    server.files[ZIP_URL] = longbench_zip(drop=["lcc_e"])
    with pytest.raises(DataError, match=r"not LongBench's data\.zip .*lcc_e\.jsonl.*delete it, and its pin"):
        write_pinned("longbench", benchmarks, tmp_path / "cache", output)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something other than assets; choose another folder"):
        write_pinned("mt_bench", benchmarks, tmp_path / "cache", output)
    assert files_of(output) == {"mine.txt": b"mine"}


@pytest.mark.parametrize("benchmark", names())
def test_the_own_sets_have_the_same_names(tmp_path, benchmark):
    write_own(benchmark, OWN_SETS, tmp_path / "out")
    found = files_of(tmp_path / "out")
    source = json.loads(found.pop("source.json"))
    assert source["source"] == "own"
    assert source["data"].startswith("own small ")
    assert found == files_of(OWN_SETS / benchmark)
    assert sorted(name for name in found if "/" not in name) == FOLDERS[benchmark]


def test_the_script_as_people_use_it(root, tmp_path):
    essays = replace(FOLDER, name="needle_essays")
    arguments = ["--table", table_file(tmp_path, [], [essays]), "--cache", tmp_path / "cache", "--root", root]
    result = run_script("assets", *arguments, "--benchmark", "needle", "--output", tmp_path / "needle")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "needle/haystack/a.txt").read_bytes() == ESSAYS["a.txt"]
    arguments = ["--cache", tmp_path / "cache", "--root", root]
    result = run_script("assets", *arguments, "--benchmark", "mt_bench", "--output", tmp_path / "mt_bench")
    assert result.returncode == 1
    assert "mt_bench_questions" in result.stderr
    assert "is absent" in result.stderr
    assert "Traceback" not in result.stderr
    arguments += ["--options", json.dumps({"protocol": "longalign"}), "--source", "own"]
    result = run_script("assets", *arguments, "--benchmark", "mt_bench", "--output", tmp_path / "mt_bench")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mt_bench/question.jsonl").is_file()
