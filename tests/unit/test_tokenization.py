"""Rows become token tables: over-long rows, rejections, workers, previews."""

import json

import pytest

from gateau.errors import DataError, SettingsError
from gateau.formats import IGNORED
from gateau.schemas import CHATS, TOKENS
from gateau.tables import read_metadata, read_rows, write_rows
from gateau.training import tokenization
from gateau.training.tokenization import RowEncoder, TokensOptions, TokensReport, target_runs, tokenize_rows

from helpers import TINY_PAIR, run_script
from unit.tokenizers import python_tokenizer

EOS = 1
CONTEXT = "\n".join(f"Note falcon {number} balor kemin tasir." for number in range(60))


def chat_row(*contents, row_id="a", line=1):
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return {"id": row_id, "file": "x.jsonl", "line": line, "messages": json.dumps(messages)}


def encode(tokenizer, row, max_length, over_long):
    return RowEncoder(tokenizer, TokensOptions("longalign", max_length, over_long)).encode([row])[0]


LONG = chat_row(f"{CONTEXT}\n\nWhat does note falcon say?", "Note falcon balor.")


def test_drop_rejects_and_says_why(tiny_tokenizer):
    outcome = encode(tiny_tokenizer, LONG, 200, "drop")
    assert (outcome.reason, "200" in outcome.advice) == ("too_long", True)


def test_error_names_file_line_and_id(tiny_tokenizer):
    with pytest.raises(DataError, match=r"x\.jsonl line 1 \(id a\)"):
        encode(tiny_tokenizer, LONG, 200, "error")


def test_truncate_right_loses_the_answer_as_released(tiny_tokenizer):
    outcome = encode(tiny_tokenizer, LONG, 200, "truncate_right")
    assert outcome.reason == "no_target"
    whole = encode(tiny_tokenizer, LONG, 10_000, "drop")
    cut = encode(tiny_tokenizer, LONG, whole.n_tokens - 2, "truncate_right")
    assert cut.input_ids.tolist() == whole.input_ids.tolist()[:-2]
    assert "truncated_right" in cut.changes


def test_truncate_context_keeps_the_question_after_a_blank_line_of_windows(tiny_tokenizer):
    row = chat_row(f"{CONTEXT}\r\n\r\nWhat does note falcon say?", "Note falcon balor.")
    outcome = encode(tiny_tokenizer, row, 200, "truncate_context")
    assert "\r\n\r\nWhat does note falcon say?" in tiny_tokenizer.decode(outcome.input_ids)


@pytest.mark.parametrize("limit", [60, 200, 555])
def test_truncate_context_keeps_question_answer_and_the_end_of_the_context(tiny_tokenizer, limit):
    outcome = encode(tiny_tokenizer, LONG, limit, "truncate_context")
    assert limit - 4 <= outcome.n_tokens <= limit
    text = tiny_tokenizer.decode(outcome.input_ids)
    assert text.endswith("\n\nWhat does note falcon say?[/INST]Note falcon balor.</s>")
    kept = text.removeprefix("<s>[INST]").split("\n\n")[0]
    assert CONTEXT.endswith(kept)
    assert "truncated_context" in outcome.changes
    whole = encode(tiny_tokenizer, LONG, 10_000, "drop")
    learnt = [label for label in outcome.labels.tolist() if label != IGNORED]
    assert learnt == [label for label in whole.labels.tolist() if label != IGNORED]
    assert learnt[-1] == EOS


def test_truncate_context_gives_up_on_a_row_without_context(tiny_tokenizer):
    row = chat_row("falcon " * 300, "otter")
    assert encode(tiny_tokenizer, row, 100, "truncate_context").reason == "too_long"


def test_truncate_context_refuses_a_tokenizer_written_in_python_before_any_row():
    tokenizer = python_tokenizer()
    with pytest.raises(SettingsError, match=r"a token covers, as tokens\.over_long: truncate_context needs"):
        RowEncoder(tokenizer, TokensOptions("longalign", 200, "truncate_context"))
    assert encode(tokenizer, LONG, 200, "drop").reason == "too_long"


def rows_of(count):
    rows = [chat_row(f"falcon {n}", f"otter {n}", row_id=f"r{n}", line=n + 1) for n in range(count)]
    rows[3] = chat_row("falcon", "", row_id="r3", line=4)
    return rows


@pytest.mark.parametrize("workers", [1, 2])
def test_the_table_does_not_depend_on_workers(tiny_tokenizer, monkeypatch, workers):
    monkeypatch.setattr(tokenization, "CHUNK_ROWS", 7)
    encoder = RowEncoder(tiny_tokenizer, TokensOptions("longalign", 100, "drop"))
    report = TokensReport()
    parts = list(tokenize_rows(rows_of(40), encoder, "short", report, workers))
    table = [row for part, _ in parts for row in part.to_pylist()]
    assert [row["id"] for row in table] == [f"r{n}" for n in range(40) if n != 3]
    for row in table:
        alone = encode(tiny_tokenizer, rows_of(40)[int(row["id"][1:])], 100, "drop")
        assert row["input_ids"] == alone.input_ids.tolist()
        assert row["labels"] == alone.labels.tolist()
        assert (row["n_tokens"], row["n_targets"]) == (alone.n_tokens, alone.n_targets)
    assert [(row.line, row.reason) for _, rejected in parts for row in rejected] == [(4, "no_target")]
    assert report.summary() == {
        "rows": 40, "sequences": 39, "tokens": sum(row["n_tokens"] for row in table),
        "targets": sum(row["n_targets"] for row in table), "longest": max(row["n_tokens"] for row in table),
        "rejected": 1, "rejected_by_reason": {"no_target": 1}, "changes": {},
    }  # fmt: skip


def test_runs_show_the_end_of_an_answer_in_mid_conversation(tiny_tokenizer):
    encoded = encode(tiny_tokenizer, chat_row("falcon", "otter", "badger", "lynx"), 100, "drop")
    runs = [(learnt, tiny_tokenizer.decode(run)) for learnt, run in target_runs(encoded.input_ids, encoded.labels)]
    assert runs == [
        (False, "<s>[INST]falcon[/INST]"),
        (True, "otter"),
        (True, "</s>"),
        (False, "[INST]badger[/INST]"),
        (True, "lynx</s>"),
    ]


def tokens_command(tmp_path, rows, *more):
    write_rows(tmp_path / "chats.parquet", CHATS, [{**row, "dataset": None, "digest": row["id"]} for row in rows])
    names = ("tokens", "rejects", "summary", "preview-text", "preview-html")
    outputs = [part for name in names for part in (f"--{name}", tmp_path / name)]
    return run_script(
        "tokens", "--rows", tmp_path / "chats.parquet", "--source", "short", "--model",
        json.dumps({"path": str(TINY_PAIR / "long")}), "--format", "longalign", "--max-length", 100, "--over-long",
        "drop", "--max-rejected-share", 0.5, "--preview", 2, "--workers", 2, *outputs, *more,
    )  # fmt: skip


def test_the_script_writes_table_rejects_summary_and_previews(tmp_path):
    rows = [*rows_of(6), chat_row("<b> & falcon", "otter <i>", row_id="html")]
    result = tokens_command(tmp_path, rows)
    assert result.returncode == 0, result.stderr
    table = read_rows(tmp_path / "tokens", TOKENS)
    assert [row["id"] for row in table] == ["r0", "r1", "r2", "r4", "r5", "html"]
    assert {row["source"] for row in table} == {"short"}
    metadata = read_metadata(tmp_path / "tokens", TOKENS)
    assert (metadata["format"], len(metadata["content"])) == ("longalign", 64)
    assert json.loads((tmp_path / "rejects").read_text())["reason"] == "no_target"
    assert json.loads((tmp_path / "summary").read_text())["sequences"] == 6
    assert "<s>[INST]falcon 0[/INST]⟦otter 0</s>⟧" in (tmp_path / "preview-text").read_text()
    page = (tmp_path / "preview-html").read_text()
    assert "<mark>otter 0&lt;/s&gt;</mark>" in page
    assert page.count("<h2>") == 2


def test_too_many_rejections_stop_with_the_rows(tmp_path):
    result = tokens_command(tmp_path, rows_of(6), "--max-rejected-share", 0.1)
    assert result.returncode == 1
    assert "x.jsonl line 4 (id r3): no_target" in result.stderr
    assert "tokens.max_rejected_share" in result.stderr
