"""The doctor: a sound configuration passes, and each prepared fault is found with its advice."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig

from gateau.config_files import read_configuration
from gateau.costs.run import Run, Stage
from gateau.errors import DataError
from gateau.experiments import Configuration
from gateau.preflight import thorough
from gateau.preflight.cheap import cheap_checks, check_files
from gateau.preflight.findings import Finding, render
from gateau.preflight.rows import check_all_rows, check_rows, preview_rows
from gateau.preflight.thorough import all_checks, check_memory

from helpers import ROOT, TINY_PAIR, merged, row, run_script, write_jsonl
from unit.tokenizers import chat_tokenizer, python_tokenizer

NEEDLE = {"lengths": [300, 500], "depths": [50], "reserve": 60, "max_new_tokens": 12}


@pytest.fixture
def sound(tmp_path, monkeypatch):
    """A configuration without a fault, and its rows, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the tests must not ask the hub
    monkeypatch.setattr(thorough.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e15))
    rows = [row(f"Note {n}: {'falcon balor detek ' * 20}\n\nWhat does note {n} say?", id=str(n)) for n in range(20)]
    write_jsonl(tmp_path / "long.jsonl", rows)
    write_jsonl(tmp_path / "short.jsonl", [row(f"Hello {n}.") for n in range(10)])
    return {
        "results_dir": "results",
        "data": {"long": "long.jsonl", "short": "short.jsonl"},
        "models": {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")},
        "scoring": {"max_length": 1024, "device": "cpu"},
        "experiments": {"gateau": {"n_long": 10, "n_short": 5}},
        "tokens": {"max_length": 1024},
        "plan": {"token_budget": 1024},
        "train": {"experiments": "all", "device": "cpu"},
        "evaluate": {
            "benchmarks": ["needle"],
            "experiments": "all",
            "models": {"before": "base"},
            "generate": {"device": "cpu"},
            "judge": {"benchmarks": ["needle"], "budget_tokens": 1000},
            "needle": NEEDLE,
        },
    }


def configured(*configs):
    with open("my.yaml", "w") as file:
        yaml.safe_dump(merged(*configs), file)
    return Configuration(read_configuration(["my.yaml"]))


def found(configuration, **options):
    """Findings that are not ok, as (level, subject), and all their texts."""
    bad = [one for one in all_checks(configuration, **options) if one.level != "ok"]
    return [(one.level, one.subject) for one in bad], "\n".join(one.text for one in bad)


def test_a_sound_configuration_passes(sound):
    findings = all_checks(configured(sound))
    assert {one.level for one in findings} == {"ok"}
    subjects = [one.subject for one in findings]
    for subject in ("data.long", "data.short", "models.short", "models.long", "scoring.max_length", "tokenizers",
                    "evaluate.needle", "evaluate.judge", "experiments.gateau", "disk"):  # fmt: skip
        assert subject in subjects


FAULTS = {
    "missing file": ({"data": {"long": "none.jsonl"}}, "data.long", "none.jsonl: no such file; set data.long"),
    "empty glob": ({"data": {"long": "*.parquet"}}, "data.long", "*.parquet: the glob matches no file; correct it in"),
    "regex": (
        {"data": {"split": {"regex": "(?P<context>.*)<x>(?P<instruction>.*)"}}}, "data.long",
        "20 of all 20 rows would be rejected (not_split 20); line 1: data.split.regex does not match the user turn",
    ),
    "no such column": (
        {"data": {"columns": {"id": "key"}}}, "data.long",
        "no row has key, which is the id by data.columns; write one of the names that rows have: messages, id",
    ),
    "limit": ({"data": {"limit": 21}}, "data.long", "data.limit is 21, but only 20 of the 20 rows of data.long can be"),
    "window too short": (
        {"scoring": {"max_length": 4000}}, "scoring.max_length", "a window of 1024 tokens: lower it to 1024 or scale",
    ),
    "needle too long": (
        {"evaluate": {"needle": {"lengths": [300, 5000]}}}, "evaluate.needle", "tokens; lower evaluate.needle.lengths",
    ),
    "no budget": (
        {"evaluate": {"judge": {"budget_tokens": None}}}, "configuration", "a budget is needed; set a number of tokens",
    ),
    "model not cached": (
        {"models": {"short": "no/such-model"}}, "models.short", "fetch it with `hf download no/such-model`",
    ),
    "no such folder": ({"models": {"short": "./nowhere"}}, "models.short", "./nowhere: no such model directory; set"),
    "too few chats": ({"experiments": {"gateau": {"n_short": 50}}}, "experiments.gateau", "10 usable rows; lower it"),
    "no flash-attn": (
        {"scoring": {"attention": "flash_attention_2"}}, "scoring.attention", "not installed; pip install '.[gpu]'",
    ),
    "dense mask": ({"plan": {"token_budget": 9000}}, "train.attention", "or a smaller plan.token_budget"),
    "budget of a batch": ({"plan": {"token_budget": 50}}, "plan.token_budget", "longest row (about"),
    "two experiments": (
        {"experiments": {"gateau": {"n_long": 90}, "other": {"method": "random", "n_long": 90}}},
        "experiments.other", "n_long is 90, but data.long has about 20 usable rows; lower it or add data",
    ),
    "uneven steps": (
        {"plan": {"method": "sort", "sequences_per_step": 5}, "train": {"ranks_per_node": 2}},
        "plan.sequences_per_step", "5 sequences cannot be shared evenly by 2 ranks; choose a multiple",
    ),
    "no such stop token": (
        {"tokens": {"stop_token": "<stop>"}}, "tokens.format", "tokens.stop_token: '<stop>' is not a token of",
    ),
    "nothing set": ({"data": {"long": None}}, "data.long", "not set; set it in your configuration file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_configuration_is_found(sound, fault):
    change, subject, advice = FAULTS[fault]
    findings, texts = found(configured(sound, change))
    assert ("error", subject) in findings
    assert len({name for level, name in findings if level == "error"}) == 1 + (fault == "two experiments"), findings
    assert advice in texts


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"train": {"experiments": ["typo"]}}, "train.experiments: typo is not an experiment; choose from gateau"),
        ({"experiments": {"a": {"method": "typo"}}}, "experiment a: method 'typo' does not exist; choose one of"),
    ],
)
def test_an_unknown_name_is_found_before_anything_looks_it_up(sound, change, advice):
    (finding,) = all_checks(configured(sound, change))
    assert (finding.level, finding.subject) == ("error", "configuration")
    assert finding.text.startswith(advice)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "ds.json is not a readable JSON file ([Errno 2]"),
        ("{", "ds.json is not a readable JSON file (Expecting"),
        ("[]", "ds.json has no zero_optimization.stage from 0 to 3; see config/deepspeed, or set it to none"),
        ('{"zero_optimization": {}}', "ds.json has no zero_optimization.stage from 0 to 3"),
    ],
)
def test_a_deepspeed_file_that_cannot_be_used_is_found_before_the_first_job(sound, tmp_path, content, advice):
    file = tmp_path / "ds.json"
    if content:
        file.write_text(content)
    configuration = configured(sound, {"train": {"deepspeed": str(file)}})
    errors = [one for one in cheap_checks(configuration, {"train"}) if one.level == "error"]
    assert [one.subject for one in errors] == ["train.deepspeed"]
    assert advice in errors[0].text
    shipped = configured(sound, {"train": {"deepspeed": "config/deepspeed/zero3.json"}})
    (fine,) = [one for one in cheap_checks(shipped, {"train"}) if one.subject == "train.deepspeed"]
    assert (fine.level, fine.text.split(" is ")[1]) == ("ok", "for ZeRO-3")


def test_a_limit_is_compared_with_the_rows_unless_an_earlier_run_counted_them(sound):
    run = Run(configured(sound, {"data": {"limit": 20}}), Path("results"))
    assert [str(one) for one in check_all_rows(run)] == ["ok: data.limit: there are 20 rows to draw"]
    Path("results/index").mkdir(parents=True)
    Path("results/index/index.parquet").touch()
    (finding,) = check_all_rows(run)
    assert "is not compared with the files" in finding.text


def test_wrong_columns_are_counted_by_reason(sound, tmp_path):
    good, bad = [json.dumps(row(f"{n}\n\nb", id=str(n))) for n in range(6)], [json.dumps({"text": "a"})] * 8
    write_jsonl(tmp_path / "long.jsonl", [*good, *bad])
    findings, texts = found(configured(sound))
    assert ("error", "data.long") in findings
    assert "8 of all 14 rows would be rejected (missing_fields 8); line 7: the row has no messages, conver" in texts
    write_jsonl(tmp_path / "long.jsonl", [*(row(f"{n}\n\nb", id=str(n)) for n in range(20)), "broken"])
    findings, texts = found(configured(sound))
    assert findings == [("warning", "data.long")]
    assert "1 of all 21 rows would be rejected (not_json 1); line 21" in texts


def test_rows_are_broken_as_in_a_run(sound, tmp_path):
    """Duplicates are not, and the share is that of all files of a source."""
    good = [row(f"{n}\n\nb", id=str(n)) for n in range(30)]
    write_jsonl(tmp_path / "long.jsonl", [*good[:6], *good[:6]])
    findings = [one for one in check_rows(configured(sound)) if one.subject == "data.long"]
    assert [(one.level, one.text) for one in findings] == [
        ("ok", "long.jsonl: all 12 rows can be used, but 6 are left out (duplicate_content 6)")
    ]
    write_jsonl(tmp_path / "long.jsonl", good)
    write_jsonl(tmp_path / "more.jsonl", [good[0], good[0], {"text": "a"}])
    both = {"data": {"long": ["long.jsonl", "more.jsonl"]}}
    findings = [one for one in check_rows(configured(sound, both)) if one.subject == "data.long"]
    assert [one.level for one in findings] == ["ok", "warning"]
    assert "more.jsonl: 1 of all 3 rows would be rejected (missing_fields 1); line 3: the row has" in findings[1].text
    findings = check_rows(configured(sound, both, {"data": {"max_rejected_share": 0.01}}))
    assert [one.level for one in findings if one.subject == "data.long"] == ["ok", "error"]


def test_data_of_the_hub_is_announced_until_it_is_fetched(sound, tmp_path, monkeypatch):
    configuration = configured(sound, {"data": {"long": ["long.jsonl", {"hub": "owner/rows"}]}})
    listing = tmp_path / "results/hub_data/owner--rows.hub.json"
    findings, texts = found(configuration)
    assert findings == [("warning", "data.long")]
    assert "owner--rows is not fetched yet; a run does so, or fetch it alone: snakemake results/hub_data/owner" in texts

    def gated(entry):
        raise DataError(f"{entry.hub} is gated")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("gateau.data.hub_data.ask_hub", gated)
    assert [str(one) for one in thorough.check_hub_data(configuration)] == ["error: data: owner/rows is gated"]
    file = listing.with_name("owner--rows") / "more.jsonl"
    file.parent.mkdir(parents=True)
    write_jsonl(file, [row("A note.\n\nWhat?")])
    described = {"path": "more.jsonl", "n_bytes": file.stat().st_size, "sha256": ""}
    listing.write_text(json.dumps({"hub": "owner/rows", "commit": "1" * 40, "files": [described]}))
    assert thorough.check_hub_data(configuration) == []
    texts = [one.text for one in [*cheap_checks(configuration), *check_rows(configuration)]]
    assert "results/hub_data/owner--rows/more.jsonl: all 1 rows can be used" in texts
    file.unlink()
    assert [(one.level, one.subject) for one in check_files(configuration)] == [("error", "data.long")]


def test_rows_are_shown_as_they_are_split(sound, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "long.jsonl").rename(tmp_path / "more/long.jsonl")
    (tmp_path / "more/other.csv").write_text("ask,doc,said\nwhat,<text>,that\n")
    shown = preview_rows(configured(sound, {"data": {"long": ["more/*.jsonl", "absent"], "split": "first_line"}}))
    assert shown.count("=== ") == 10
    assert re.search(r"=== \d+ \(more/long.jsonl, line \d+\)\n--- context\n\(empty\)|--- instruction\nNote", shown)
    columns = {"context": "doc", "instruction": "ask", "response": "said"}
    shown = preview_rows(configured(sound, {"data": {"long": "more/other.csv", "columns": columns}}))
    assert "--- context\n<text>\n--- instruction\nwhat\n--- response\nthat\n" in shown


def test_among_the_first_rows_an_absent_column_or_an_empty_file_is_a_warning(sound, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"document": "doc", "question": "q", "answer": "a"}])
    write_jsonl(tmp_path / "b.jsonl", [{"question": "q", "answer": "a"}])
    (tmp_path / "c.json").write_text("[]")
    change = {"data": {"columns": {"context": "document"}, "long": ["a.jsonl", "b.jsonl", "c.json"]}}
    findings = [one for one in check_rows(configured(sound, change)) if one.subject == "data.long"]
    assert [(one.level, one.text) for one in findings] == [
        ("ok", "a.jsonl: all 1 rows can be used"),
        ("warning", "b.jsonl, all 1 rows: no row has document, which is the context by data.columns; write one of the "
         "names that rows have: question, answer"),
        ("ok", "b.jsonl: all 1 rows can be used"),
        ("warning", "c.json: the file is empty; write its rows again, or leave it out"),
    ]  # fmt: skip
    alone, _ = check_rows(configured(sound, {"data": {"long": "c.json"}}))
    assert (alone.level, alone.subject) == ("error", "data.long")


def test_tokenizers_must_agree(sound, tmp_path):
    shutil.copytree(TINY_PAIR / "short", tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["something"])
    tokenizer.save_pretrained(tmp_path / "other")
    findings, texts = found(configured(sound, {"models": {"short": "./other"}}))
    assert findings == [("error", "models.short")]
    assert "its tokenizer is not that of models.long" in texts
    assert "choose homologous models" in texts


def test_names_of_reserved_tokens_may_differ_but_those_of_the_frame_may_not(sound, tmp_path):
    shutil.copytree(TINY_PAIR / "short", tmp_path / "other")
    chat_tokenizer(control=["<|im_start|>"], reserved=["<|other|>"]).save_pretrained(tmp_path / "other")
    shutil.copytree(TINY_PAIR / "long", tmp_path / "template")
    chat_tokenizer().save_pretrained(tmp_path / "template")
    change = {"models": {"short": "./other", "long": "./template"}, "train": {"experiments": "none"}}
    findings, texts = found(configured(sound, change))
    assert ("warning", "models.short") in findings
    assert "3 special tokens differ (<|im_end|>, <|other|>, <|reserved|>) from those of models.long" in texts
    findings, texts = found(configured(sound, {**change, "scoring": {"format": "chat_template"}}))
    assert ("error", "models.short") in findings
    assert "it lacks control tokens of the chat template of models.long" in texts
    (tmp_path / "template/chat_template.jinja").unlink()
    findings, texts = found(configured(sound, {**change, "scoring": {"format": "chat_template"}}))
    assert ("error", "scoring.format") in findings
    assert "has no chat template; set scoring.format: plain" in texts


@pytest.mark.parametrize(
    "tokens", [{"format": "tokenizer_template", "chat_template": "chatml"}, {"over_long": "truncate_context"}]
)
def test_a_tokenizer_written_in_python_is_found(sound, tmp_path, tokens):
    shutil.copytree(TINY_PAIR / "long", tmp_path / "base", ignore=shutil.ignore_patterns("token*"))
    python_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "base/vocab.txt").touch()  # most have such a file
    change = {"models": {"base": "./base"}, "evaluate": {"models": {}, "experiments": "none"}}
    assert found(configured(sound, change))[0] == []
    findings, texts = found(configured(sound, change, {"tokens": {**tokens, "stop_token": "</s>"}}))
    assert findings == [("error", "tokens.format")]
    assert "use a tokenizer with tokenizer.json, or set tokens.format: longalign and tokens.over_long: drop" in texts


def test_a_missing_key_is_found(sound, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    findings, texts = found(configured(sound))
    assert findings == [("error", "evaluate.judge")]
    assert "export OPENAI_API_KEY=… before you start" in texts
    assert not cheap_checks(configured(sound), rules={"plan"})  # the ratings are there already


def test_a_full_disk_is_found(sound, monkeypatch):
    monkeypatch.setattr(thorough.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    findings, texts = found(configured(sound))
    assert findings == [("error", "disk")]
    assert "set results_dir, progress_dir or train.checkpoint_dir to a larger disk" in texts


def test_each_disk_is_compared_with_what_is_still_to_be_written_there(sound, tmp_path, monkeypatch):
    stages = [
        Stage("long_pass", "", 1, 1, "", files={"results/long_pass": 60.0, "fast/long_pass": 60.0}),
        Stage("train", "a", 1, 1, "", files={"results/train/a": 20.0, "fast/checkpoints": 300.0}),
        Stage("train", "b", 1, 1, "", files={"results/train/b": 20.0, "fast/checkpoints": 300.0}),
    ]  # fmt: skip
    free = {"results": 45, "fast": 700}
    (tmp_path / "fast/checkpoints").mkdir(parents=True)
    for folder in ("long_pass", "train/b", "never_needed"):
        (tmp_path / "results" / folder).mkdir(parents=True)
    (tmp_path / "results/long_pass/0.parquet").write_bytes(bytes(50))
    (tmp_path / "results/never_needed/0.parquet").write_bytes(bytes(10**4))
    monkeypatch.setattr(thorough, "_disk_of", lambda folder: folder.relative_to(tmp_path).parts[0])
    monkeypatch.setattr(
        thorough.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[folder.relative_to(tmp_path).parts[0]])
    )
    levels = [(one.level, one.text.partition("disk of ")[2].split(";")[0]) for one in thorough.check_disk(stages)]
    assert levels == [("error", str(tmp_path / "results/long_pass")), ("warning", str(tmp_path / "fast"))]
    free |= {"results": 70, "fast": 900}
    assert [one.level for one in thorough.check_disk(stages)] == ["ok", "ok"]


def test_a_run_writes_to_the_configured_folders(sound):
    """Of a training, the checkpoints; of a pass, the finished work."""
    run = Run(configured(sound, {"progress_dir": "fast", "train": {"checkpoint_dir": "large"}}), Path("results"))
    folders = {one.title: list(one.files or {}) for one in run.stages()}
    assert folders["long_pass"] == ["results/long_pass", "fast/long_pass"]
    assert folders["tokens long"] == ["results/tokens/long.parquet"]
    assert folders["train gateau"] == ["large", "results/train/gateau", "results/export/gateau"]
    run = Run(configured(sound, {"experiments": {"other": {"method": "one_model"}}}), Path("results"))
    folders = {one.title: list(one.files or {}) for one in run.stages()}
    assert folders["contrast_pass one_model"] == ["results/contrast_pass/one_model", "results/progress/short_pass"]


def test_a_cached_model_of_the_hub_answers_within_its_window(sound, monkeypatch):
    cached = str(TINY_PAIR / "long/config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **options: cached)
    evaluate = {"models": {"hub": "me/model", "local": str(TINY_PAIR / "long")}, "generate": {"max_length": 9000}}
    run = Run(configured(sound, {"evaluate": evaluate}), Path("results"))
    memory = {one.name: one.memory for one in run.stages() if one.rule == "generate"}
    assert memory["hub needle"] == memory["local needle"]


@pytest.fixture
def model_7b(tmp_path):
    """Llama-2-7B's config.json with the tiny pair's tokenizer and no real weights."""
    LlamaConfig(max_position_embeddings=65536).save_pretrained(tmp_path / "7b")
    for file in (TINY_PAIR / "long").glob("token*"):
        shutil.copy(file, tmp_path / "7b")
    (tmp_path / "7b/model.safetensors").touch()
    return "./7b"


def test_a_small_gpu_is_found(sound, model_7b):
    change = {
        "models": {"base": model_7b},
        "train": {"device": "auto", "lora": {"r": 16}},
        "plan": {"token_budget": 8192},
    }
    findings, texts = found(configured(sound, change), gpu_memory_gib=16)
    assert findings == [("error", "memory of train")]
    assert "of 17.2 GB of a GPU with 16 GiB; set train.gradient_checkpointing: true" in texts
    assert found(configured(sound, change), gpu_memory_gib=24)[0] == []


def test_a_model_larger_than_one_gpu_is_spread_over_several(sound, model_7b, monkeypatch):
    models = {"models": {"long": model_7b, "short": None}, "train": {"experiments": "none"}}
    generate = {"device": "auto", "gpus_per_job": 4, "max_length": 1000, "batch_tokens": 1000}
    answering = {"evaluate": {"experiments": "none", "generate": generate}}
    wide = configured(sound, models, answering, {"scoring": {"device": "auto", "gpus_per_job": 4, "short_window": 512}})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    findings, texts = found(wide, gpu_memory_gib=12)
    keys = ["scoring.gpus_per_job", "evaluate.generate.gpus_per_job"]
    assert findings == [("warning", key) for key in keys]
    assert "a job asks for 4 GPUs, and this machine has 3; lower it, unless jobs run on others" in texts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert found(wide, gpu_memory_gib=12)[0] == []
    one = {"scoring": {"gpus_per_job": 1}, "evaluate": {"generate": {"gpus_per_job": 1}}}
    findings, texts = found(configured(wide.config, one), gpu_memory_gib=12)
    rules = ["short_pass", "long_pass", "segment_pass", "generate"]
    assert findings == [("error", f"memory of {rule}") for rule in rules]
    assert "raise scoring.gpus_per_job" in texts
    assert "raise evaluate.generate.gpus_per_job" in texts


def test_rules_that_need_too_much_memory_are_named():
    stages = [Stage(rule, "", 1, 1, "", memory=memory) for rule, memory in (("long_pass", 30e9), ("generate", 5e9))]
    levels = {one.subject: one.level for one in check_memory([*stages, Stage("train", "a", 1, 8, "")], 20)}
    assert levels == {"memory of long_pass": "error", "memory of generate": "ok", "memory": "warning"}


def test_findings_are_printed_as_a_table():
    text = render([Finding("ok", "disk", "enough"), Finding("error", "data.long", "no such file " * 9)], 80)
    first, second, third, *_, summary = text.splitlines()
    assert first == "ok       disk       enough"
    assert second.startswith("error    data.long  no such file")
    assert third.startswith(" " * 20 + "file no such")
    assert max(map(len, text.splitlines())) <= 80
    assert summary == "1 error, 0 warnings, 1 ok"


def test_cheap_checks_import_nothing_heavy(sound):
    configured(sound)
    code = (
        f"import sys, yaml; sys.path.insert(0, {str(ROOT / 'scripts')!r});"
        "from gateau.config_files import completed; from gateau.experiments import Configuration;"
        "from gateau.preflight.cheap import cheap_checks;"
        "found = cheap_checks(Configuration(completed(yaml.safe_load(open('my.yaml')))));"
        "print(len(found) > 3, [m for m in ('torch', 'numpy', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True []"


def test_the_doctor_prints_findings_and_memory(sound, model_7b, tmp_path):
    configured(sound, {"models": {"base": model_7b}, "train": {"device": "auto", "lora": {"r": 16}}})
    result = run_script("doctor", "--configfile", "my.yaml", "--gpu-memory-gib", 12, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    for text in ("error    memory of train", "6,738,415,616 parameters, 39,976,960 trained", "; one process",
                 "| optimizer states "):  # fmt: skip
        assert text in result.stdout
    configured(sound)
    result = run_script("doctor", "--configfile", "my.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "0 errors, 0 warnings" in result.stdout


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("train: {learning_rat: 1}", (), "learning_rat"),
        ("- a", (), "not a mapping"),
        ("{}", ("--devices", 0), "positive"),
    ],
)
def test_the_doctor_refuses_what_it_cannot_read(tmp_path, content, arguments, message):
    (tmp_path / "my.yaml").write_text(content)
    result = run_script("doctor", "--configfile", tmp_path / "my.yaml", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
