"""Data sets of the hub: pinned, resumed, verified, taken from a cache or a mirror, and refused with advice."""

import hashlib
import json
import logging
import shutil
import socket
import struct

import huggingface_hub
import pytest
from huggingface_hub import constants

from gateau.data import hub_data
from gateau.data.hub_data import ask_hub, chosen_files, write_hub_data
from gateau.data.readers import read_records
from gateau.errors import DataError
from gateau.experiments import Configuration
from gateau.hub_entries import HubEntry, name_of
from gateau.raw_files import expanded

from helpers import row
from unit.file_servers import HubServer

NAME, OLD, NEW = "owner/long-rows", "1" * 40, "2" * 40
FILES = {
    "README.md": b"# Rows\n",
    ".gitattributes": b"*.parquet filter=lfs\n",
    "data/a.jsonl": json.dumps(row("One.\n\nWhat?", id="a")).encode() * 100 + b"\n",
    "data/b.jsonl": json.dumps(row("Two.\n\nWhat?", id="b")).encode() + b"\n",
    "small.json": json.dumps([row("Three.\n\nWhat?", id="c")]).encode(),
}
ROWS = ["data/a.jsonl", "data/b.jsonl", "small.json"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = HubServer()
    server.commits[NAME] = {OLD: {"old.jsonl": b"{}\n"}, NEW: dict(FILES)}
    server.branches[NAME, "main"] = NEW
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.close_session()
    template = server.host + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": server.host, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hub_data, "PAUSE_SECONDS", 0)
    yield server
    server.close()


@pytest.fixture
def fetch(tmp_path, hub):
    """A function that fetches an entry into the results of a run, and returns the path of the list."""

    def fetched(entry, results="results", mirror=None):
        listing = tmp_path / entry.listing(results)
        folder = listing.with_name(name_of(str(listing)))
        shutil.rmtree(folder, ignore_errors=True)  # as Snakemake does before a job
        listing.unlink(missing_ok=True)
        write_hub_data(entry, folder, listing, mirror)
        return listing

    return fetched


def contents(listing):
    folder = listing.with_name(name_of(str(listing)))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def downloads(hub):
    return [path for method, path, _ in hub.asked if method == "GET"]


def test_the_files_of_a_commit_are_fetched_and_listed(hub, fetch):
    listing = fetch(HubEntry(NAME, NEW))
    assert listing.name == f"owner--long-rows@{NEW}.hub.json"
    assert json.loads(listing.read_text()) == {
        "hub": NAME,
        "commit": NEW,
        "files": [
            {"path": path, "n_bytes": len(FILES[path]), "sha256": hashlib.sha256(FILES[path]).hexdigest()}
            for path in ROWS
        ],
    }
    assert contents(listing) == {path: FILES[path] for path in ROWS}
    assert sorted(downloads(hub)) == ROWS
    assert contents(fetch(HubEntry(NAME, OLD), "other")) == {"old.jsonl": b"{}\n"}


def test_a_broken_connection_is_continued_where_it_broke(hub, fetch, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.breaks["data/a.jsonl"] = [1000, 2000]
    assert contents(fetch(HubEntry(NAME, NEW)))["data/a.jsonl"] == FILES["data/a.jsonl"]
    ranges = [where for method, path, where in hub.asked if (method, path) == ("GET", "data/a.jsonl")]
    assert ranges == [None, "bytes=1000-", "bytes=3000-"]


def test_a_changed_file_is_refused_and_only_this_file_is_fetched_again(hub, fetch):
    for path in ("data/b.jsonl", "small.json"):
        hub.served[path] = FILES[path].replace(b"What", b"Whom")
        with pytest.raises(
            DataError, match=rf"{path} has (SHA-256|git blob id) \w+ instead of \w+; it is deleted; run"
        ):
            fetch(HubEntry(NAME, NEW))
        assert not list(fetch_folder(fetch))
        hub.served.clear()
        hub.asked.clear()
        assert contents(fetch(HubEntry(NAME, NEW))) == {name: FILES[name] for name in ROWS}
        assert downloads(hub) == [path]
        hub.asked.clear()
        fetch(HubEntry(NAME, NEW))
        assert downloads(hub) == []
        shutil.rmtree(constants.HF_HUB_CACHE)


def fetch_folder(fetch):
    """Return the files of the results, but the note of commits."""
    return [path for path in fetch.__closure__[0].cell_contents.glob("results/**/*") if path.is_file()]


def test_a_server_that_recovers_is_asked_again(hub, fetch, monkeypatch):
    send, refusals = hub._send_file, ["reset", 500]

    def recovering(request, *arguments):
        if request.command != "GET" or not refusals:
            return send(request, *arguments)
        if isinstance(step := refusals.pop(), int):
            return hub.send(request, step, b"")
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return request.connection.close()  # a reset, of which the client does not recover by itself

    monkeypatch.setattr(hub, "_send_file", recovering)
    assert len(contents(fetch(HubEntry(NAME, NEW, ("small.json",))))) == 1
    refusals += [500] * 3
    with pytest.raises(DataError, match=r"cannot be fetched \(.*500 .*run again where there is a network"):
        fetch(HubEntry(NAME, NEW, ("data/b.jsonl",)))


def test_the_commit_of_a_branch_is_looked_up_once_and_kept(hub, fetch, caplog):
    hub.branches[NAME, "main"] = OLD
    assert contents(fetch(HubEntry(NAME))) == {"old.jsonl": b"{}\n"}
    assert f"the default branch is commit {OLD}, and this run keeps it; write revision: {OLD}" in caplog.text
    hub.branches[NAME, "main"] = NEW
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert json.loads(fetch(HubEntry(NAME)).read_text())["commit"] == OLD
    assert json.loads(fetch(HubEntry(NAME, "main")).read_text())["commit"] == NEW
    caplog.clear()
    fetch(HubEntry(NAME, NEW))
    assert "keeps" not in caplog.text


def test_the_cache_is_enough_without_a_network(hub, fetch, monkeypatch):
    fetch(HubEntry(NAME, NEW, ("data/*",)))
    listed = list(hub.listed)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (NEW, "main"):
        if revision == "main":
            fetch_main = huggingface_hub.file_download._cache_commit_hash_for_specific_revision
            fetch_main(str(hub_data._Hub(HubEntry(NAME)).cache), "main", NEW)
        found = contents(fetch(HubEntry(NAME, revision, ("data/*",)), "offline"))
        assert found == {path: FILES[path] for path in ROWS[:2]}
    ask_hub(HubEntry(NAME, NEW))
    assert (hub.asked, hub.listed) == ([], listed)
    with pytest.raises(DataError, match=r"cannot be fetched .*HF_HOME.* of another machine, or set data.hub_mirror"):
        fetch(HubEntry(NAME, NEW), "offline")
    with pytest.raises(DataError, match=r"cannot be fetched .*HF_HUB_OFFLINE"):
        fetch(HubEntry(NAME, OLD), "offline")
    assert hub.asked == []


def test_a_mirror_is_enough_and_is_verified_too(hub, fetch, tmp_path):
    place = tmp_path / "mirror" / NAME
    advice = rf"make it with hf download {NAME} --repo-type dataset --revision {NEW} --local-dir {place}"
    with pytest.raises(DataError, match=f"no mirror of {NAME} at commit {NEW}; {advice}"):
        fetch(HubEntry(NAME, NEW), mirror=tmp_path / "mirror")
    with pytest.raises(DataError, match=f"no mirror of {NAME}; make it with"):
        fetch(HubEntry(NAME), mirror=tmp_path / "mirror")
    huggingface_hub.snapshot_download(NAME, repo_type="dataset", revision=NEW, local_dir=place)
    hub.close()
    for revision in (NEW, None):
        entry = HubEntry(NAME, revision)
        assert contents(fetch(entry, mirror=tmp_path / "mirror")) == {path: FILES[path] for path in ROWS}
    (place / "small.json").write_bytes(FILES["small.json"].replace(b"What", b"Whom"))
    with pytest.raises(DataError, match=rf"small.json has git blob id \w+ instead of \w+; delete {place}/small.json"):
        fetch(HubEntry(NAME, NEW), mirror=tmp_path / "mirror")
    assert (place / "small.json").exists()
    (place / "small.json").unlink()
    with pytest.raises(DataError, match=r"small.json: not in the mirror \(1 are absent\); make it with"):
        fetch(HubEntry(NAME, NEW), mirror=tmp_path / "mirror")
    (place / f".cache/huggingface/trees/{OLD}.json").write_text("{}")
    with pytest.raises(DataError, match="the mirror knows 2 commits; set revision to one of"):
        fetch(HubEntry(NAME, "main"), mirror=tmp_path / "mirror")


def test_a_token_opens_gated_and_private_data_sets_and_is_never_shown(hub, fetch, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for group, message in (
        (hub.gated, rf"{NAME} is gated; accept its conditions on .*/datasets/{NAME}, and export HF_TOKEN"),
        (hub.private, rf"{NAME} is not a data set on the hub, or it is private and needs a token: export HF_TOKEN"),
    ):
        group.add(NAME)
        for check in (fetch, ask_hub):
            with pytest.raises(DataError, match=message):
                check(HubEntry(NAME, NEW))
        monkeypatch.setenv("HF_TOKEN", "hf_ofAnotherAccount")
        with pytest.raises(DataError, match="is gated" if group is hub.gated else "HF_TOKEN may not read it") as caught:
            fetch(HubEntry(NAME, NEW))
        monkeypatch.setenv("HF_TOKEN", f"{hub.token}\n")
        ask_hub(HubEntry(NAME, NEW))
        assert len(contents(fetch(HubEntry(NAME, NEW)))) == 3
        monkeypatch.delenv("HF_TOKEN")
        group.clear()
        shutil.rmtree(constants.HF_HUB_CACHE)
        assert "hf_" not in str(caught.value)
    assert hub.token not in caplog.text
    assert "hf_ofAnotherAccount" not in caplog.text


def test_what_does_not_exist_is_an_error_with_advice(hub, fetch, monkeypatch):
    with pytest.raises(DataError, match=r"owner/nothing is not a data set on the hub, or .*; correct the name in data"):
        fetch(HubEntry("owner/nothing", NEW))
    for revision in ("3" * 40, "v9"):
        with pytest.raises(DataError, match=f"{NAME} has no revision {revision}; write a commit, branch or tag"):
            fetch(HubEntry(NAME, revision))
    with pytest.raises(DataError, match=r"no file matches files: \*.csv; choose among .gitattributes, README.md, data"):
        fetch(HubEntry(NAME, NEW, ("*.csv",)))
    with pytest.raises(DataError, match=r"no file matches the endings of data files .* and split: test; choose among"):
        fetch(HubEntry(NAME, NEW, split="test"))
    hub.commits[NAME][NEW]["../up.jsonl"] = b""
    with pytest.raises(DataError, match=r"the path ../up.jsonl is outside the repository"):
        fetch(HubEntry(NAME, NEW))
    hub.close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before the client's further tries
    with pytest.raises(DataError, match=rf"{NAME} cannot be fetched \(.*run again where there is a network"):
        fetch(HubEntry(NAME, NEW))
    assert not fetch_folder(fetch)


@pytest.mark.parametrize(
    ("entry", "chosen"),
    [
        (
            {},
            ["data/train-00000-of-00002.parquet", "en/train/x.csv", "rows_train.jsonl.gz", "test.jsonl",
             "train_sft-00000-of-00001.parquet"],
        ),
        ({"split": "train"}, ["data/train-00000-of-00002.parquet", "en/train/x.csv", "rows_train.jsonl.gz"]),
        ({"split": "train_sft"}, ["train_sft-00000-of-00001.parquet"]),
        ({"split": "test"}, ["test.jsonl"]),
        ({"files": "*.parquet"}, ["data/train-00000-of-00002.parquet", "train_sft-00000-of-00001.parquet"]),
        ({"files": "*.parquet", "split": "train"}, ["data/train-00000-of-00002.parquet"]),
        ({"files": ["train.txt", "en/*"]}, ["en/train/x.csv", "train.txt"]),
    ],
)  # fmt: skip
def test_patterns_and_splits_choose_files(entry, chosen):
    known = [
        "train_sft-00000-of-00001.parquet", "data/train-00000-of-00002.parquet", "en/train/x.csv", "test.jsonl",
        "rows_train.jsonl.gz", "train.txt", "dataset_infos.json", ".hidden/train.jsonl", "README.md",
    ]  # fmt: skip
    assert chosen_files(HubEntry.from_config({"hub": NAME, **entry}), known, NEW) == chosen


def test_rows_are_named_after_the_data_set(hub, fetch):
    listing = fetch(HubEntry(NAME, NEW, ("data/b.jsonl", "small.json")))
    origins = [(record.origin.file, record.value["id"]) for record in read_records([str(listing)])]
    assert origins == [(f"{NAME}/data/b.jsonl", "b"), (f"{NAME}/small.json", "c")]
    place = listing.with_name(name_of(str(listing))) / "small.json"
    assert expanded([str(listing)], "data.long")[1] == str(place)
    place.unlink()
    with pytest.raises(DataError, match=f"{place}: missing or changed since it was fetched; delete {listing} and run"):
        expanded([str(listing)], "data.long")
    listing.unlink()
    with pytest.raises(
        DataError, match=rf"long-rows-\w+@2+ is not fetched yet; .* snakemake {listing} --workflow-profile"
    ):
        expanded([str(listing)], "data.long")


def test_an_entry_stands_for_the_list_of_its_files():
    entries = ["rows.jsonl", {"hub": NAME, "revision": None, "split": "train"}, {"hub": NAME, "revision": "refs/pr/1"}]
    configured = Configuration({"results_dir": "r/", "data": {"long": entries, "short": {"hub": NAME, "files": "*"}}})
    long, short = configured.raw_files("long"), configured.raw_files("short")
    assert long[0] == "rows.jsonl"
    assert long[2] == "r/hub_data/owner--long-rows@refs-pr-1.hub.json"
    assert all(path.startswith("r/hub_data/owner--long-rows-") for path in (long[1], *short))
    assert len({*long, *short}) == 4
    assert list(configured.hub_data) == [name_of(path) for path in (*long[1:], *short)]


def test_writing_down_the_commit_that_was_found_keeps_the_list(fetch, tmp_path):
    entry = HubEntry(NAME, "main")
    listing, results = str(fetch(entry)), str(tmp_path / "results")
    assert HubEntry(NAME, NEW).listing(results) == listing == entry.listing(results)
    for other in (HubEntry(NAME, OLD), HubEntry(NAME, NEW, split="train"), HubEntry(f"{NAME}2", NEW), HubEntry(NAME)):
        assert other.listing(results) != listing
