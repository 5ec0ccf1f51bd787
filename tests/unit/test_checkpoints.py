"""Checkpoints: complete, or as if they were not there."""

from gateau.training.checkpoints import mark_complete, newest_checkpoint, prune, training_digest


def checkpoint(folder, step, complete=True, world_size=2):
    directory = folder / f"checkpoint-{step}"
    (directory / "global_step").mkdir(parents=True)
    (directory / "global_step/rank0.pt").write_bytes(b"x" * 10)
    (directory / "trainer_state.json").write_text("{}")
    if complete:
        mark_complete(directory, world_size)
    return directory


def test_the_newest_complete_one_counts(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10, world_size=4)
    checkpoint(tmp_path, 11, complete=False)
    found = newest_checkpoint(tmp_path)
    assert (found.step, found.world_size, found.directory.name) == (10, 4, "checkpoint-10")


def test_a_file_that_is_gone_or_cut_makes_it_incomplete(tmp_path, caplog):
    checkpoint(tmp_path, 1)
    (checkpoint(tmp_path, 2) / "global_step/rank0.pt").unlink()
    (checkpoint(tmp_path, 3) / "global_step/rank0.pt").write_bytes(b"x" * 9)
    assert newest_checkpoint(tmp_path).step == 1
    assert "checkpoint-3 is ignored: missing or of another size are global_step/rank0.pt" in caplog.text


def test_two_complete_ones_are_kept_and_nothing_newer_is_touched(tmp_path):
    for step in (1, 3, 5):
        checkpoint(tmp_path, step)
    for step in (2, 4, 6):
        checkpoint(tmp_path, step, complete=False)
    (tmp_path / "universal-3").mkdir()
    (tmp_path / "universal-5").mkdir()
    prune(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "checkpoint-3", "checkpoint-5", "checkpoint-6", "universal-5"
    }  # fmt: skip


def test_without_a_complete_one_nothing_is_removed(tmp_path):
    checkpoint(tmp_path, 1, complete=False)
    prune(tmp_path)
    assert (tmp_path / "checkpoint-1").exists()


def test_the_digest_follows_settings_not_their_order():
    assert training_digest({"a": 1, "b": 2}) == training_digest({"b": 2, "a": 1}) != training_digest({"a": 1, "b": 3})
