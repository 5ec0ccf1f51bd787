# What evaluation asks whom, and how: models, benchmarks, judge and assets as parameters of its rules.
import hashlib

from gateau.model_files import tokenizer_fingerprint, weights_fingerprint

model, ROLES, verbatim, PROGRESS = (
    CONFIGURED.model,
    CONFIGURED.roles,
    no_wildcards,
    config["progress_dir"] or f"{RESULTS}/progress",
)

EVALUATE = config["evaluate"]
GENERATE = EVALUATE["generate"]
GPUS_PER_GENERATE = 0 if GENERATE["device"] == "cpu" else 1
BENCHMARKS = EVALUATE["benchmarks"]
JUDGE = EVALUATE["judge"]
JUDGED = [benchmark for benchmark in BENCHMARKS if benchmark in JUDGE["benchmarks"]]
# there are rubrics for questions and summaries alone
_RATED = {"narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh", "hotpotqa", "2wikimqa", "musique", "dureader"}
_RATED |= {"gov_report", "qmsum", "multi_news", "vcsum"}
if _RATED.isdisjoint(EVALUATE["longbench"]["data_sets"] or _RATED) and "longbench" in JUDGED:
    JUDGED.remove("longbench")
JUDGE_NAME = re.sub(r"[^\w.-]", "_", JUDGE["model"])
# without a judge these two have answers, but no scores
SCORED = [benchmark for benchmark in BENCHMARKS if benchmark in JUDGED or benchmark in ("longbench", "needle")]
RESOURCES = SCRIPTS.parent / "workflow/resources"
OWN_ASSETS, PINNED_ASSETS = RESOURCES / "small_benchmarks", RESOURCES / "assets.json"
PUBLISHED = str(RESOURCES / "published_scores.json")

GIVEN_MODELS = EVALUATE["models"]
_trained = EXPERIMENTS if EVALUATE["experiments"] is None else EVALUATE["experiments"]
if unknown := set(_trained) - set(EXPERIMENTS):
    raise WorkflowError(f"evaluate.experiments: no experiment {min(unknown)}; there are {', '.join(EXPERIMENTS)}")
if doubled := set(GIVEN_MODELS) & set(EXPERIMENTS):
    raise WorkflowError(f"evaluate.models: {min(doubled)} is the name of an experiment too; choose another")
EVALUATED = [*GIVEN_MODELS, *_trained]
BASELINE = EVALUATE["baseline"] or (EVALUATED[0] if EVALUATED else "none")
if EVALUATED and BASELINE not in EVALUATED:
    raise WorkflowError(f"evaluate.baseline: {BASELINE} is not evaluated; evaluated are {', '.join(EVALUATED)}")
if unknown := set(EVALUATE["servers"]) - set(EVALUATED):
    raise WorkflowError(f"evaluate.servers: {min(unknown)} is not evaluated; evaluated are {', '.join(EVALUATED)}")
_folded = " ".join(EVALUATE["needle"]["needle"].casefold().split())
if absent := [key for key in EVALUATE["needle"]["keys"] if " ".join(key.casefold().split()) not in _folded]:
    raise WorkflowError(f"evaluate.needle.keys: {absent[0]!r} is not in the needle, so no answer could be right")
# answers without a score are worth having: another judge may come
LEADERBOARD = expand(f"{RESULTS}/predictions/{{model}}/{{benchmark}}", model=EVALUATED, benchmark=BENCHMARKS)
if SCORED and EVALUATED:
    LEADERBOARD.append(f"{RESULTS}/leaderboard/leaderboard.html")


wildcard_constraints:
    model="|".join(map(re.escape, EVALUATED)) or "none",
    benchmark="longbench|longbench_chat|needle|mt_bench",
    part=r"\d+-of-\d+",


def files_digest(*places):
    """Digest of files, and of all files in folders, by name and content."""
    digest = hashlib.sha256()
    for place in map(Path, places):
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                digest.update(file.name.encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def assets_source(benchmark):
    """Arguments that decide what the assets are."""
    protocol = ["--protocol", EVALUATE[benchmark]["protocol"]] if benchmark == "longbench_chat" else []
    return shlex.join(["--source", EVALUATE["assets"]["source"], *protocol])


def assets_digest(benchmark):
    """What the assets are made of, as far as it is known here."""
    return files_digest(OWN_ASSETS / benchmark if EVALUATE["assets"]["source"] == "own" else PINNED_ASSETS)


def assets_places():
    """Where pinned files come from and are kept."""
    cache, root = EVALUATE["assets"]["cache"], EVALUATE["assets"]["root"]
    return shlex.join(["--cache", cache, *(["--root", root] if root else [])])


def evaluated_model(name):
    """A model's section as an object: an experiment's is its export."""
    if name in EXPERIMENTS:
        return {"path": f"{RESULTS}/export/{name}"}
    value = GIVEN_MODELS[name] or config["models"]["base"] or config["models"]["long"]
    return {"path": value} if isinstance(value, str) else {key: v for key, v in value.items() if v is not None}


def evaluated_identity(name):
    """What a given model is, whatever its place."""
    if name in EXPERIMENTS:
        return "export"
    spec = evaluated_model(name)
    place, revision = spec.pop("path"), spec.get("revision")
    digests = [weights_fingerprint(place, revision), tokenizer_fingerprint(place, revision)]
    # stop tokens and the chat format decide answers too
    beside = [Path(place).expanduser() / name for name in ("generation_config.json", "gateau.json")]
    return json.dumps([*digests, spec, files_digest(*[file for file in beside if file.is_file()])], sort_keys=True)


def export_if_any(wildcards):
    """The export of an experiment."""
    return by_contents("model", f"{RESULTS}/export/{wildcards.model}") if wildcards.model in EXPERIMENTS else {}


def server_of(name):
    """The server section of a model that is asked through one."""
    return EVALUATE["servers"].get(name)


def gpus_of(name):
    """GPUs that answering takes here: none if a server answers."""
    return 0 if server_of(name) else GPUS_PER_GENERATE


def served_as(name):
    """What of a model's server may change an answer: its address may not."""
    server = server_of(name)
    if not server:
        return "in process"
    more = json.dumps(server.get("extra_body") or {}, sort_keys=True)
    return f"{server['model']} by {server.get('send', 'messages')} {more}"


def question_options(benchmark):
    """The benchmark's options that decide its questions; LongBench's protocol decides its scores only."""
    scoring_only = {"longbench": {"protocol"}, "needle": {"keys"}}.get(benchmark, set())
    return {name: value for name, value in EVALUATE[benchmark].items() if name not in scoring_only}


def generate_settings():
    """Arguments that may change an answer."""
    names = ("format", "max_length", "batch_tokens", "device", "dtype", "attention")
    return " ".join(f"--{name.replace('_', '-')} {GENERATE[name]}" for name in names)


def generate_run(name):
    """Arguments that change no answer."""
    run = ["--threads", str(GENERATE["threads"]), "--progress-dir", f"{PROGRESS}/generate"]
    return shlex.join([*run, *(["--server", json.dumps(server_of(name))] if server_of(name) else [])])


def parts_of(benchmark):
    """Names of a benchmark's shards."""
    shards = GENERATE["shards"][benchmark]
    return [f"{shard:04d}-of-{shards:04d}" for shard in range(shards)]


def shard_arguments(part):
    """``--shard`` and ``--shards`` of a shard's name."""
    shard, shards = map(int, part.split("-of-"))
    return f"--shard {shard} --shards {shards}"


JUDGE_ASKED = ["model", "temperature", "seed", "max_tokens", "null_retries", "max_null_share", "extra_body"]


def judge_arguments(*names):
    """Arguments of the judge that are set."""
    given = {name: JUDGE[name] for name in names if JUDGE[name] is not None}
    texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in given.items()}
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in texts.items())


def judge_reached():
    """Arguments that decide how the judge is reached and what it may cost, not what it says."""
    names = ["key_variable", "concurrency", "tries", "backoff_seconds", "timeout_seconds", "budget_tokens"]
    names += ["prompt_price", "completion_price"]
    address = "STAND_IN_JUDGE_URL" if JUDGE["stand_in"] else shlex.quote(JUDGE["base_url"])
    return f"{judge_arguments(*names)} --base-url {address} --cache {shlex.quote(f'{PROGRESS}/judge')}"


def stand_in_start():
    """What starts the demo's judge around a command: a server that is no language model."""
    return f"python {shlex.quote(str(SCRIPTS / 'stand_in_judge.py'))} --" if JUDGE["stand_in"] else ""


def scorer_input(benchmark):
    """An input function: predictions, and judgments where there is a judge."""

    def found(wildcards):
        files = by_contents("predictions", f"{RESULTS}/predictions/{wildcards.model}/{benchmark}")
        if benchmark in JUDGED:
            files["judgments"] = f"{RESULTS}/judge/{wildcards.model}/{benchmark}/judgments.jsonl"
        return files

    return found


_NAMES = {
    "longbench": "LongBench",
    "longbench_chat": "LongBench-Chat",
    "needle": "Needle",
    "mt_bench": "MT-Bench",
}


def score_labels(benchmark):
    """Whose items were asked and who judged, as tables show it."""
    own = EVALUATE["assets"]["source"] == "own"
    data = f"own small set in the format of {_NAMES[benchmark]}" if own else _NAMES[benchmark]
    arguments = f"--data {shlex.quote(data)}"
    if benchmark in JUDGED:
        name = "stand-in, no language model" if JUDGE["stand_in"] else JUDGE["model"]
        arguments += f" --judge {shlex.quote(name)} --max-null-share {JUDGE['max_null_share']}"
    return verbatim(arguments)


def judged_arguments(files, heatmap=()):
    """Arguments of a scorer that has judgments."""
    if not files.get("judgments"):
        return ""
    plots = [part for place in heatmap for part in ("--judge-heatmap", place)]
    return shlex.join(["--judgments", files["judgments"], *plots])


def model_fingerprints():
    """Digests of the configured models, by role or name."""
    named = {role: model(role) for role in ROLES}
    named |= {name: evaluated_model(name) for name in GIVEN_MODELS}
    return {
        role: {
            "weights": weights_fingerprint(spec["path"], spec.get("revision")),
            "tokenizer": tokenizer_fingerprint(spec["path"], spec.get("revision")),
        }
        for role, spec in named.items()
    }
