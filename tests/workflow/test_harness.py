"""Tasks of lm-evaluation-harness: really run, offline, on the tiny model; their numbers are counted again by hand."""

import csv
import json
import math
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import yaml

from gateau.errors import DataError, SettingsError
from gateau.evaluation.harness import index as harness_index
from gateau.evaluation.harness.configured import check_harness
from gateau.evaluation.harness.index import INSTALL, TaskIndex, own_tasks
from gateau.evaluation.harness.measures import measures_of
from gateau.evaluation.harness.running import LoadedTask, clamped_lengths
from gateau.evaluation.results.measures import OWN_UNIT, read_items

from helpers import (
    ROOT,
    TINY_PAIR,
    merged,
    planned_rules,
    run_script,
    small_config,
    snakemake,
    snakemake_command,
    write_jsonl,
)

pytestmark = pytest.mark.workflow

MODEL = TINY_PAIR / "long"
WINDOW, RULER_ANSWER = 1024, 128
QUESTIONS = [f"What does note {name} say" for name in ("falcon", "harbor", "meadow", "copper", "willow", "marble")]
CHOICES = [" balor detek mosar", " rigas tunut"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for data sets; the names of all tasks are read into it once."""
    folder = tmp_path_factory.mktemp("harness cache")
    TaskIndex.read(folder)
    return folder


@pytest.fixture(scope="module")
def model():
    """The tiny model, to count by hand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    return SimpleNamespace(model=found, tokenizer=AutoTokenizer.from_pretrained(MODEL), torch=torch)


def asked(model, question):
    """The text up to where the answer begins."""
    messages = [{"role": "user", "content": question}]
    return model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encoded(model, text):
    """The ids of a rendered text, which begins with the template's BOS."""
    return model.tokenizer.encode(text, add_special_tokens=False)


def log_likelihoods(model, ids):
    """The log-probability of each token after the first, given those before it, and of each one's best rival."""
    with model.torch.no_grad():
        logits = model.model(model.torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(logits, ids[1:], strict=True)], logits.max(-1).values.tolist()


def choice_by_hand(model, question):
    """The number of the likeliest choice."""
    context = asked(model, question)
    start = len(encoded(model, context))
    totals = [sum(log_likelihoods(model, encoded(model, context + choice))[0][start - 1 :]) for choice in CHOICES]
    return totals.index(max(totals))


def text_by_hand(model, text, window):
    """The log-likelihood of a text, in windows; the last one also reads what precedes it.

    The harness begins with BOS, and the tokenizer adds another one.
    """
    ids = [model.tokenizer.bos_token_id, *model.tokenizer.encode(text)]
    total, done = 0.0, 1
    while done < len(ids):
        end = min(done + window, len(ids))
        total += sum(log_likelihoods(model, ids[max(end - window - 1, 0) : end])[0][-(end - done) :])
        done = end
    return total


def answer_by_hand(model, question, tokens):
    """The greedy answer's first line."""
    ids = model.torch.tensor([encoded(model, asked(model, question))])
    made = model.model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=2)[0, ids.shape[1] :]
    return model.tokenizer.decode(made, skip_special_tokens=True).split("\n")[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory, model):
    """A folder with tasks of our own: a choice, an answer, a perplexity, a prompt beyond the window, a group, a tag."""
    folder = tmp_path_factory.mktemp("own tasks")
    right = [number % 2 for number in range(len(QUESTIONS))]
    said = [
        answer_by_hand(model, question, 8) if number < 2 else "something else"
        for number, question in enumerate(QUESTIONS)
    ]
    rows = [
        {"question": question, "choices": CHOICES, "right": number, "said": text.strip()}
        for question, number, text in zip(QUESTIONS, right, said, strict=True)
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    shared = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test", "doc_to_text": "{{question}}", "target_delimiter": "", "tag": ["own_tag"],
    }  # fmt: skip
    metric = {"aggregation": "mean", "higher_is_better": True}
    answers = {
        "doc_to_target": "{{said}}", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, **metric}], "metadata": {"version": 1},
        "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    }  # fmt: skip
    files = {
        "_shared": shared,
        "choice": {
            "include": "_shared.yaml", "task": "own_choice", "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}", "doc_to_target": "right", "metric_list": [{"metric": "acc", **metric}],
            "metadata": {"version": 3},
        },
        "answer": {"include": "_shared.yaml", "task": "own_answer", "output_type": "generate_until", **answers},
        "text": {**shared, "task": "own_text", "tag": [], "output_type": "loglikelihood_rolling", "doc_to_text": "",
                 "doc_to_target": "{{question * (300 if right else 1)}}", "metadata": {"version": 2}},
        "long": {**shared, **answers, "task": "own_long", "tag": [], "output_type": "generate_until",
                 "doc_to_text": "note falcon " * 1000},
        "group": {"group": "own_group", "task": ["own_choice", "own_answer"]},
    }  # fmt: skip
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def config_of(directory, cache, own, *tasks, **harness):
    section = {"tasks": list(tasks), "include_path": [str(own)], "cache": str(cache), "offline": True, **harness}
    evaluate = {"models": {"tiny": str(MODEL)}, "generate": {"device": "cpu"}, "harness": section}
    return merged(small_config(directory), {"train": {"experiments": "none"}, "evaluate": evaluate}) | {
        "experiments": {}
    }


def measures_by_task(results):
    rows = csv.DictReader((results / "leaderboard/leaderboard.csv").open())
    return {(row["protocol"].split(",")[0], row["name"]): row for row in rows}


def test_own_tasks_and_a_ruler_task_run_offline_and_stand_in_the_leaderboard(tmp_path, cache, own, model):
    options = {"lengths": [600, 4096], "limit": 4}
    tasks = ["own_choice", "own_answer", "own_text", "niah_single_1"]
    result = snakemake(tmp_path, config_of(tmp_path, cache, own, *tasks, **options), "evaluated")
    assert result.returncode == 0, result.stdout
    found = measures_by_task(tmp_path / "results")
    longest = WINDOW - RULER_ANSWER
    assert set(found) == {
        ("own_choice version 3", "acc"), ("own_answer version 1", "exact_match"),
        ("niah_single_1 version 1.0", "600 tokens"), ("niah_single_1 version 1.0", f"{longest} tokens"),
        *(("own_text version 2", name) for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")),
    }  # fmt: skip
    assert {row["unit"] for row in found.values()} == {OWN_UNIT}
    assert {row["n"] for row in found.values()} == {"4"}, "the limit is of each length"
    by_hand = [choice_by_hand(model, question) == number % 2 for number, question in enumerate(QUESTIONS[:4])]
    assert float(found["own_choice version 3", "acc"]["score"]) == sum(by_hand) / 4
    assert float(found["own_answer version 1", "exact_match"]["score"]) == 0.5, (
        "two answers of four are the model's own"
    )
    assert read_items(tmp_path / "results/harness/tiny/own_text/items.jsonl") == [], "a perplexity is no mean of items"
    folder = tmp_path / "results/harness/tiny/niah_single_1"
    answers = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    contained = [answer["target"][0] in answer["answers"][0][0] for answer in answers]
    scores = {name: float(row["score"]) for (task, name), row in found.items() if task.startswith("niah")}
    assert scores == {"600 tokens": sum(contained[:4]) / 4, f"{longest} tokens": sum(contained[4:]) / 4}
    page = (tmp_path / "results/leaderboard/leaderboard.md").read_text()
    assert "## lm-evaluation-harness, protocol niah_single_1 version 1.0, lm_eval" in page
    assert "-1" not in page
    assert "4096" not in page

    assert planned_rules(tmp_path, config_of(tmp_path, cache, own, *tasks, **options), "evaluated") == set()
    fewer = config_of(tmp_path, cache, own, *tasks[:2], **options)
    assert planned_rules(tmp_path, fewer, "evaluated") == {"leaderboard"}
    more = config_of(tmp_path, cache, own, *tasks, "own_group", **options)
    assert planned_rules(tmp_path, more, "evaluated") == {"harness", "leaderboard"}


def run_task(folder, cache, own, task, server=None, **options):
    """Run the script on the tiny model; return the process and its scores by name."""
    arguments = ["--task", task, "--options", json.dumps(options), "--cache", cache, "--offline", "--device", "cpu"]
    arguments += ["--include-path", own]
    arguments += ["--model", json.dumps({"path": str(MODEL)}), "--progress-dir", folder / "progress"]
    arguments += ["--output", folder / "scores.json", "--items", folder / "items.jsonl"]
    arguments += ["--answers", folder / "answers.jsonl"]
    arguments += ["--server", json.dumps(server)] if server else []
    result = run_script("harness", *arguments)
    done = result.returncode == 0
    measures = json.loads((folder / "scores.json").read_text())["measures"] if done else []
    return result, {measure["name"]: (measure["score"], measure["n"]) for measure in measures}


class Server(ThreadingHTTPServer):
    """A completions server for token ids: it recites odd numbers, and gives log-probabilities if asked."""

    daemon_threads = True

    def __init__(self, model, failing=0, probabilities=True, refusing=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.failing, self.probabilities, self.refusing = model, failing, probabilities, refusing
        self.prompts, self.keys, self.lock = [], set(), threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def section(self):
        address = f"http://127.0.0.1:{self.server_port}/v1"
        return {"base_url": address, "model": "m", "send": "tokens", "concurrency": 2}

    def generated(self):
        return [body for body in self.prompts if not body.get("echo")]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.prompts.append(body)
            server.keys.add(self.headers["Authorization"])
            fails = len(server.generated()) <= server.failing and not body.get("echo")
        self.send_response(server.refusing or (500 if fails else 200))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"index": 0, **self.answer(body)}]}).encode())

    def answer(self, body):
        model, prompts = self.server.model, body["prompt"]
        if not body.get("echo"):
            number = re.search(r"is: (\d{7})", model.tokenizer.decode(prompts[0]))[1]
            return {"text": f" {number}." if int(number) % 2 else " nothing"}
        if not self.server.probabilities:
            return {"text": "", "logprobs": None}
        ids = model.tokenizer.encode(prompts) if isinstance(prompts, str) else prompts[0]
        with self.server.lock:
            own, best = log_likelihoods(model, ids)
        top = [None, *({"best": value} for value in best), {"next": 0.0}]
        return {"text": "", "logprobs": {"token_logprobs": [None, *own, 0.0], "top_logprobs": top}}


def test_a_server_answers_a_ruler_task_and_a_rerun_asks_for_the_missing_answers_only(
    tmp_path, cache, own, model, monkeypatch
):
    monkeypatch.setenv("MODEL_SERVER_KEY", "sk-never-to-be-seen")
    options = {"lengths": [600], "limit": 6}
    server = Server(model, failing=100)
    result, _ = run_task(tmp_path, cache, own, "niah_single_1", server.section, **options)
    assert result.returncode == 1
    assert "a call of the model server failed (500" in result.stderr
    assert server.keys == {"Bearer sk-never-to-be-seen"}
    assert "never-to-be-seen" not in result.stdout + result.stderr
    server.failing = 0
    server.prompts.clear()
    result, scores = run_task(tmp_path, cache, own, "niah_single_1", server.section, **options)
    assert result.returncode == 0, result.stderr
    texts = [model.tokenizer.decode(body["prompt"][0]) for body in server.generated()]
    assert len(texts) == 6
    assert all(text.rstrip().endswith("mentioned in the provided text is") for text in texts), (
        "the harness's own prefix"
    )
    assert max(len(body["prompt"][0]) for body in server.generated()) <= WINDOW - RULER_ANSWER
    odd = [int(re.search(r"is: (\d{7})", text)[1]) % 2 for text in texts]
    assert 0 < sum(odd) < 6, "the test needs answers of both kinds"
    assert scores == {"600 tokens": (pytest.approx(sum(odd) / 6), 6)}

    server.prompts.clear()
    result, again = run_task(tmp_path, cache, own, "niah_single_1", server.section, **{**options, "limit": 8})
    assert result.returncode == 0, result.stderr
    assert again["600 tokens"][1] == 8
    assert len(server.generated()) == 2, "six of eight answers are stored"


def test_a_server_with_prompt_probabilities_scores_choices_as_in_process(tmp_path, cache, own, model):
    result, scores = run_task(tmp_path, cache, own, "own_choice", Server(model).section)
    assert result.returncode == 0, result.stderr
    by_hand = [choice_by_hand(model, question) == number % 2 for number, question in enumerate(QUESTIONS)]
    assert scores == {"acc": (pytest.approx(sum(by_hand) / len(QUESTIONS)), len(QUESTIONS))}


def test_a_perplexity_agrees_with_one_counted_by_hand(tmp_path, cache, own, model):
    texts = [QUESTIONS[0], QUESTIONS[1] * 300]
    # through a server, the harness keeps room for one new token
    for server, window in ((Server(model).section, WINDOW - 1), (None, WINDOW)):
        result, scores = run_task(tmp_path, cache, own, "own_text", server, limit=2)
        assert result.returncode == 0, result.stderr
        expected = math.exp(
            -sum(text_by_hand(model, text, window) for text in texts) / sum(len(text.encode()) for text in texts)
        )
        assert scores["byte_perplexity"] == (pytest.approx(expected, rel=1e-5), 2)


@pytest.mark.parametrize("status", [401, 503])
def test_a_server_that_refuses_is_not_said_to_lack_probabilities(tmp_path, cache, own, model, monkeypatch, status):
    monkeypatch.setenv("MODEL_SERVER_KEY", "sk-never-to-be-seen\n")  # as in a mounted secret
    server = Server(model, refusing=status)
    result, _ = run_task(tmp_path, cache, own, "own_choice", server.section)
    assert result.returncode == 1
    assert f"answered {status}; check the model's name, its key_variable" in result.stderr
    assert server.keys == {"Bearer sk-never-to-be-seen"}
    assert "never-to-be-seen" not in result.stdout + result.stderr


def test_a_server_without_prompt_probabilities_is_asked_no_question(tmp_path, cache, own, model):
    server = Server(model, probabilities=False)
    result, _ = run_task(tmp_path, cache, own, "own_choice", server.section)
    assert result.returncode == 1
    assert (
        "own_choice: this task needs the log-probabilities of its prompts, which this server does not give"
        in result.stderr
    )
    assert len(server.prompts) == 1, "the test of its abilities"


def test_a_prompt_beyond_the_window_is_an_error_before_any_question(tmp_path, cache, own, model):
    server = Server(model)
    result, _ = run_task(tmp_path, cache, own, "own_long", server.section)
    assert result.returncode == 1
    assert re.search(r"own_long, item 0: the prompt takes \d{4} tokens and up to 8 for the answer", result.stderr)
    assert server.prompts == []


def test_a_task_without_network_and_cache_says_what_to_fetch(tmp_path, cache, own):
    result, _ = run_task(tmp_path, cache, own, "gsm8k")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "gsm8k: its data (openai/gsm8k main) cannot be loaded" in last
    assert f"python scripts/harness.py --fetch --task gsm8k --cache {cache}" in last


def test_the_index_agrees_with_the_harness(cache, own):
    from lm_eval.tasks._index import TaskIndex as Theirs

    ours = TaskIndex.read(cache, [own])
    folders = [own_tasks() / name for name in ("ruler", "gsm8k", "ifeval", "arc", "longbench2", "glue")]
    theirs = Theirs.build([*folders, own])
    assert len(theirs) > 40
    kinds = {"TASK": "task", "PY_TASK": "task", "GROUP": "group", "TAG": "tag"}
    for name, entry in theirs.items():
        assert ours.entries[name].kind == kinds[entry.kind.name], name
        if entry.kind.name == "TASK":
            assert ours.entries[name].output == entry.cfg.get("output_type", "generate_until"), name
            assert entry.yaml_path.parent in ours.folders(name), name
    assert set(ours.entries["own_tag"].members) == {"own_choice", "own_answer"}
    assert set(ours.leaves("own_group")) == {"own_choice", "own_answer"}
    ruler = {name for name, entry in ours.leaves("ruler").items() if entry.lengths}
    assert ruler == set(ours.leaves("ruler"))
    assert not ours.entries["gsm8k"].lengths


def harness_section(cache, *tasks, include=()):
    return {"tasks": list(tasks), "cache": str(cache), "include_path": list(map(str, include))}


@pytest.mark.parametrize(
    ("task", "server", "message"),
    [
        ("gsm8q", None, "the harness has no task gsm8q; similar names: gsm8k"),
        ("arc_easy", {"start": "sglang", "send": "tokens"}, "log-probabilities of its prompts, which sglang does not"),
        ("mmlu", {"start": "transformers"}, "transformers does not give; evaluate the model in process or"),
        ("arc_easy", {"start": "vllm"}, "a chat server does not give; set evaluate.servers.tiny.send to tokens"),
        ("arc_easy", {"base_url": "http://x/v1", "model": "m"}, "set evaluate.servers.tiny.send to tokens"),
        ("arc_easy", {"start": "vllm", "send": "tokens"}, None),
        ("gsm8k", {"start": "transformers"}, None),
        ("ruler", None, None),
    ],
)  # fmt: skip
def test_tasks_and_servers_are_checked_at_planning(cache, task, server, message):
    section = harness_section(cache, task)
    if message is None:
        check_harness(section, ["tiny"], lambda model: server)
        return
    with pytest.raises(SettingsError, match=re.escape(message)):
        check_harness(section, ["tiny"], lambda model: server)


def test_wrong_folders_and_no_models_are_errors(cache, tmp_path):
    with pytest.raises(DataError, match=r"evaluate\.harness\.include_path: .* is no folder"):
        check_harness(harness_section(cache, "gsm8k", include=[tmp_path / "none"]), ["tiny"], lambda model: None)
    with pytest.raises(SettingsError, match=r"evaluate\.harness\.tasks: no model is evaluated"):
        check_harness(harness_section(cache, "gsm8k"), [], lambda model: None)


def test_an_unknown_task_ends_planning(tmp_path, cache, own):
    result = snakemake(tmp_path, config_of(tmp_path, cache, own, "own_choise"), "evaluated", "--dry-run")
    assert result.returncode != 0
    assert "evaluate.harness.tasks: the harness has no task own_choise; similar names: own_choice" in result.stdout


def test_without_the_harness_planning_says_how_to_install_it(tmp_path, cache, own, monkeypatch):
    hidden = """
import importlib.metadata as metadata
find = metadata.version
def version(name):
    if name == "lm_eval":
        raise metadata.PackageNotFoundError(name)
    return find(name)
metadata.version = version
"""
    (tmp_path / "sitecustomize.py").write_text(hidden)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = snakemake_command(tmp_path, config_of(tmp_path, cache, own, "own_choice"), "evaluated", "--dry-run")
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode != 0
    assert f"lm-evaluation-harness is not installed; install it with {INSTALL}" in result.stdout + result.stderr


def test_lengths_are_clamped_to_the_window_minus_the_answer():
    assert clamped_lengths([4096, 512, 131072], 1024, 128) == [512, 896]
    assert clamped_lengths([4096, 8192], None, 128) == [4096, 8192]
    with pytest.raises(SettingsError, match="has no room beside an answer of 128"):
        clamped_lengths([4096], 100, 128)


def results_of(**tasks):
    """The harness's results of tasks, each with scores by metric and filter."""
    samples = {
        name: [
            {"doc_id": number, "doc_hash": f"{number:064}", "filter": kept, metric: score}
            for (metric, kept), scores in metrics.items()
            for number, score in enumerate(scores)
        ]
        for name, metrics in tasks.items()
    }
    return {"results": {}, "samples": samples}


def geometric(scores):
    return math.exp(sum(map(math.log, scores)) / len(scores))


def fake(name, **aggregations):
    return SimpleNamespace(task_name=name, aggregation=lambda: aggregations)


def test_numbers_stay_the_harness_s_and_get_intervals():
    results = results_of(
        a={("acc", "none"): [1, 0, 1, 1], ("perplexity", "none"): [1.0, 2.0, 4.0, 8.0]},
        b={("acc", "none"): [0, 0]},
    )
    results["results"] = {
        "a": {"acc,none": 0.75, "acc_stderr,none": "N/A", "perplexity,none": geometric([1, 2, 4, 8]), "sample_len": 4},
        "b": {"acc,none": 0.0},
        "both": {"acc,none": 0.375, "alias": "both"},
    }
    tasks = {"a": fake("a", perplexity=geometric), "b": fake("b")}
    group = SimpleNamespace(get_all_tasks=lambda: list(tasks.values()))
    measures, items = measures_of(results, LoadedTask("both", tasks, {"both": group}), "both version 1", "items")
    found = {measure.name: measure for measure in measures}
    assert list(found) == ["acc", "a: acc", "a: perplexity", "b: acc"]
    assert [measure.headline for measure in measures] == [True, False, False, False]
    assert found["acc"].score == 0.375, "the group's own mean of means"
    assert found["acc"].low < 0.375 < found["acc"].high
    assert found["acc"].n == 6
    assert found["a: perplexity"].score == pytest.approx(8**0.5)
    assert 1 <= found["a: perplexity"].low < found["a: perplexity"].score < found["a: perplexity"].high <= 8
    assert {item.name for item in items} == {"a: acc", "b: acc"}, "only the items of means are compared one by one"
    weighted = {**results, "results": {**results["results"], "both": {"acc,none": 0.5}}}
    _, items = measures_of(weighted, LoadedTask("both", tasks, {"both": group}), "both version 1", "items")
    assert [item.item for item in items if item.name == "acc"] == ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1"]


def test_a_length_that_a_task_does_not_have_is_left_out():
    results = results_of(niah={("4096", "none"): [-1.0, -1.0], ("896", "none"): [1.0, 0.0], ("600", "none"): [-1, -1]})
    results["results"] = {"niah": {"4096,none": -1, "896,none": 0.5, "600,none": -1}}
    measures, items = measures_of(results, LoadedTask("niah", {"niah": fake("niah")}, {}, [600, 896]), "v", "items")
    assert [(measure.name, measure.score, measure.n) for measure in measures] == [("896 tokens", 0.5, 2)]
    assert [item.score for item in items] == [1.0, 0.0]
    assert len({item.item for item in items}) == 2


def test_the_index_is_read_again_for_another_version(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(harness_index, "harness_version", lambda: "9")
    monkeypatch.setattr(harness_index, "own_tasks", lambda: own_tasks() / "gsm8k")
    assert "gsm8k" in TaskIndex.read(tmp_path).entries
    assert [file.name for file in tmp_path.iterdir()] == ["tasks-9.json"]
