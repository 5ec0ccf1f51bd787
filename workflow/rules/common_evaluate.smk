# Paths and parameters of the rules that evaluate. What the section evaluate means is in gateau/evaluation/configured.py.
from gateau.digests import files_digest
from gateau.evaluation import benchmarks as all_benchmarks
from gateau.evaluation.client.start import Start
from gateau.evaluation.configured import Evaluation
from gateau.places import OWN_SETS, RESOURCES

EVALUATION = Evaluation(CONFIGURED)
checked(EVALUATION.check)
EVALUATE = config["evaluate"]
GENERATE, JUDGE, ASSETS = EVALUATE["generate"], EVALUATE["judge"], EVALUATE["assets"]
EVALUATED, BENCHMARKS = EVALUATION.models, EVALUATION.benchmarks
JUDGED, SCORED, HARNESS = EVALUATION.judged, EVALUATION.scored, EVALUATION.harness_tasks
JUDGE_NAME, JUDGE_START = re.sub(r"[^\w.-]", "_", EVALUATION.judge_name), EVALUATION.judge_start
GENERATE_FILE, JUDGE_FILE = "generate/model/benchmark/part.jsonl", "judge/model/benchmark/judgments.jsonl"
PINNED_ASSETS, PUBLISHED = RESOURCES / "assets.json", RESOURCES / "published_scores.json"

# Answers without a score are made too, because another judge may rate them later.
LEADERBOARD = expand(f"{RESULTS}/predictions/{{model}}/{{benchmark}}", model=EVALUATED, benchmark=BENCHMARKS)
if EVALUATED and BENCHMARKS:
    LEADERBOARD.append(f"{RESULTS}/answers/answers.parquet")
if (SCORED or HARNESS) and EVALUATED:
    LEADERBOARD.append(f"{RESULTS}/leaderboard/leaderboard.html")


wildcard_constraints:
    model="|".join(map(re.escape, EVALUATED)) or "none",
    benchmark="|".join(all_benchmarks.names()),
    part=r"\d+-of-\d+",


def assets_source(wildcards):
    """Return the arguments that decide what the assets are."""
    options = EVALUATION.asset_options(wildcards.benchmark)
    chosen = ["--options", json.dumps(options, sort_keys=True)] if options else []
    return shlex.join(["--source", ASSETS["source"], *chosen])


def assets_digest(wildcards):
    """Return a digest of what the assets are made of: the own small set, or the table of pinned files."""
    return files_digest(OWN_SETS / wildcards.benchmark if ASSETS["source"] == "own" else PINNED_ASSETS)


def assets_places():
    """Return the arguments that say where pinned files come from and where they are kept."""
    return shlex.join(["--cache", ASSETS["cache"], *(["--root", ASSETS["root"]] if ASSETS["root"] else [])])


def export_if_any(wildcards):
    """Return the export of an experiment as a rule's input."""
    is_trained = wildcards.model in TRAINED
    return by_contents("model", f"{RESULTS}/export/{wildcards.model}") if is_trained else {}


def evaluated_model(wildcards, input):
    """Return an evaluated model's section as JSON. The path of an experiment's model is its export."""
    section = {"path": input.model} if wildcards.model in TRAINED else EVALUATION.given[wildcards.model]
    return json.dumps(section, sort_keys=True)


def evaluated_identity(wildcards):
    """Return what a model is, wherever it lies. An experiment's model is known by the rule's input."""
    return "export" if wildcards.model in TRAINED else EVALUATION.identity(wildcards.model)


def served_as(wildcards):
    """Return what may change an answer of a model that a server answers for. The server's address may not."""
    server = EVALUATION.server(wildcards.model)
    if not server:
        return "in process"
    more = json.dumps(server.get("extra_body") or {}, sort_keys=True)
    start = Start.from_config(server)
    return f"{start.identity if start else server['model']} by {server.get('send', 'messages')} {more}"


def generate_settings(*without):
    """Return the arguments that may change an answer, but those named."""
    known = ("format", "max_length", "batch_tokens", "device", "dtype", "attention")
    names = [name for name in known if name not in without]
    arguments = [part for name in names for part in (f"--{name.replace('_', '-')}", str(GENERATE[name]))]
    if "share_prefixes" not in without:
        arguments.append("--share-prefixes" if GENERATE["share_prefixes"] else "--no-share-prefixes")
    for name in ("template_options", "reasoning"):
        arguments += [f"--{name.replace('_', '-')}", json.dumps(GENERATE[name], sort_keys=True)]
    return no_wildcards(shlex.join(arguments))


def generate_run(wildcards, output):
    """Return the arguments that change no answer."""
    server = EVALUATION.server(wildcards.model)
    run = ["--threads", str(GENERATE["threads"]), "--gpus-per-job", str(max(EVALUATION.gpus(wildcards.model), 1))]
    run += ["--progress-dir", f"{progress_of(output, GENERATE_FILE)}/generate"]
    log = f"{results_of(output, GENERATE_FILE)}/logs/generate/{wildcards.model}/{wildcards.benchmark}/{wildcards.part}.server.log"
    return shlex.join([*run, *(["--server", json.dumps(server), "--server-log", log] if server else [])])


def asked_ahead(wildcards, input, output):
    """Return, as JSON, the other benchmarks with one job each, which a job of this model may answer once it is loaded."""
    undivided = [name for name in BENCHMARKS if EVALUATION.shards(name) == 1]
    if wildcards.benchmark not in undivided:
        return "[]"
    place, assets = undivided.index(wildcards.benchmark), f"{results_of(output, GENERATE_FILE)}/assets"
    return json.dumps(
        [
            {"benchmark": name, "assets": f"{assets}/{name}", "options": EVALUATION.question_options(name)}
            for name in undivided[place + 1 :] + undivided[:place]
        ]
    )


def answer_files(model, benchmark):
    """Return the files of all shards of a model's answers to a benchmark."""
    shards, folder = EVALUATION.shards(benchmark), f"{RESULTS}/generate/{model}/{benchmark}"
    return [f"{folder}/{shard:04d}-of-{shards:04d}.jsonl" for shard in range(shards)]


def answers_of(wildcards):
    """Return the files of all shards of the wildcards' model and benchmark."""
    return answer_files(wildcards.model, wildcards.benchmark)


def files_of_answers(wildcards, input):
    """Return the files of all answers by model and benchmark, as JSON."""
    files = iter(input.answers)
    sizes = {model: {name: EVALUATION.shards(name) for name in BENCHMARKS} for model in EVALUATED}
    return json.dumps(
        {model: {name: [next(files) for _ in range(n)] for name, n in of.items()} for model, of in sizes.items()}
    )


def shard_arguments(wildcards):
    """Return ``--shard`` and ``--shards`` of a shard's name."""
    shard, shards = map(int, wildcards.part.split("-of-"))
    return f"--shard {shard} --shards {shards}"


JUDGE_ASKED = ["model", "temperature", "seed", "max_tokens", "null_retries", "max_null_share", "extra_body"]


def judge_arguments(*names):
    """Return these options of the judge as arguments, without those that are null or unlimited."""
    given = {name: JUDGE[name] for name in names if JUDGE[name] not in (None, "unlimited")}
    texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in given.items()}
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in texts.items())


def judge_reached(wildcards, output):
    """Return the arguments that decide how the judge is reached and what it may cost, but not what it answers."""
    names = ["concurrency", "tries", "backoff_seconds", "timeout_seconds", "budget_tokens"]
    names += ["prompt_price", "completion_price"]
    cache = ["--cache", f"{progress_of(output, JUDGE_FILE)}/judge"]
    if JUDGE_START:
        log = f"{results_of(output, JUDGE_FILE)}/logs/judge/{wildcards.model}/{wildcards.benchmark}.server.log"
        start = {name: JUDGE[name] for name in ("start", "options", "gpus", "seconds")}
        place = ["--name", EVALUATION.judge_name, "--start", json.dumps(start), "--server-log", log]
    else:
        names.append("key_variable")
        place = ["--base-url", "STAND_IN_JUDGE_URL" if JUDGE["stand_in"] else JUDGE["base_url"]]
    return f"{judge_arguments(*names)} {shlex.join([*place, *cache])}"


def stand_in_start():
    """Return what precedes a command to run it beside the demo's judge, a server that is no language model."""
    return f"python {shlex.quote(str(SCRIPTS / 'stand_in_judge.py'))} --" if JUDGE["stand_in"] else ""


def scorer_input(benchmark):
    """Return an input function: the predictions, and the judgments if the benchmark is judged."""

    def found(wildcards):
        files = by_contents("predictions", f"{RESULTS}/predictions/{wildcards.model}/{benchmark}")
        if benchmark in JUDGED:
            files["judgments"] = f"{RESULTS}/judge/{wildcards.model}/{benchmark}/judgments.jsonl"
        return files

    return found


def score_labels(benchmark):
    """Return the arguments that name the items and the judge in tables, and those of the benchmark's own options."""
    known = all_benchmarks.load(benchmark)
    data = known.data
    if ASSETS["source"] == "own":
        data = f"own small set in the format of {data}"
    labels = ["--data", data, *known.score_arguments(EVALUATION.options(benchmark))]
    if benchmark in JUDGED:
        name = "stand-in, no language model" if JUDGE["stand_in"] else EVALUATION.judge_name
        labels += ["--judge", name, "--max-null-share", str(JUDGE["max_null_share"])]
    return no_wildcards(shlex.join(labels))


def judged_arguments(files, heatmap=()):
    """Return the arguments of a scorer that has judgments."""
    if not files.get("judgments"):
        return ""
    plots = [part for place in heatmap for part in ("--judge-heatmap", place)]
    return shlex.join(["--judgments", files["judgments"], *plots])


def score_folders(wildcards, input):
    """Return the folders of each model's scores, as JSON."""
    folders, tasks = ([Path(file).parent for file in files] for files in (input.scores, input.harness))
    return json.dumps(
        {
            name: [str(one) for one in folders if one.name == name]
            + [str(one) for one in tasks if one.parent.name == name]
            for name in EVALUATED
        }
    )


def model_fingerprints():
    """Return digests of the configured models, by role or name."""
    sections = {role: CONFIGURED.model(role) for role in CONFIGURED.roles} | EVALUATION.given
    return {name: fingerprints(section) for name, section in sections.items()}
