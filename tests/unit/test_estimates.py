"""Estimates against what torch counts, what a real pass allocates, and what a real run leaves on the disk."""

import contextlib
import io
import json
import random
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, LlamaConfig

from gateau.config_files import read_configuration
from gateau.costs.lengths import ASSUMED_BYTES_PER_TOKEN, RawRows, SampleLength, TrainingRow, fitted, spread
from gateau.costs.passes import ScoringPass, forward_bytes
from gateau.costs.run import Stage
from gateau.costs.start_summary import start_summary
from gateau.errors import DataError, ModelError
from gateau.experiments import Configuration
from gateau.methods import contrasts
from gateau.prompts import DEFAULT_TEMPLATE
from gateau.reports import si
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass
from gateau.training.objective import SequenceMeanLoss
from gateau.training.packing import MixtureReader, TokenRow, pack
from gateau.training.trainer import Speed
from gateau.work import (
    DecoderShape,
    attention_flops,
    forward_flops,
    generation_flops,
    recomputation_flops,
    training_flops,
)

from helpers import ROOT, TINY_PAIR, row, run_script, write_jsonl
from unit.models import random_sample, tiny_model

MODELS = {
    "heads of their own": ("llama", {"num_key_value_heads": 4}),
    "grouped queries": ("llama", {"num_key_value_heads": 2}),
    "one key head": ("gemma", {}),
    "sliding window": ("mistral_window", {}),
}


def shape_of(model, causal=True):
    return replace(DecoderShape.from_config(model.config), causal=causal)


def counted(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def length_of(sample):
    return SampleLength(len(sample.context), sample.n_frame, len(sample.response))


def one_pass(rule, window=None, segment_length=64, **scoring):
    config = {"cam": {"segment_length": segment_length}, "scoring": {"screen": None, "segments": None, **scoring}}
    return ScoringPass(rule, window, config)


@pytest.mark.parametrize("name", MODELS)
def test_passes_do_what_torch_counts(name):
    """Eager attention: of sdpa on a CPU torch's counter sees none. It takes all of S x S, and so must we."""
    architecture, changes = MODELS[name]
    model = tiny_model(architecture, "eager", **changes)
    shape = shape_of(model, causal=False)
    sample = random_sample(n_context=300, n_response=40)
    length = length_of(sample)
    pairs = [
        (ShortPass(None), one_pass("short_pass")),
        (ShortPass(128), one_pass("short_pass", 128)),
        (LongPass(16, 128), one_pass("long_pass")),
        (SegmentPass(64, 512, (0,)), one_pass("segment_pass")),
    ]
    for scoring_pass, estimated in pairs:
        real = counted(lambda scoring_pass=scoring_pass: scoring_pass.compute(model, sample))
        assert estimated.flops(shape, length) == pytest.approx(real, rel=0.02), scoring_pass.name


def test_a_pass_over_two_of_five_segments_does_what_torch_counts():
    model, sample = tiny_model("llama", "eager"), random_sample(n_context=320, n_response=40)
    part = SegmentPass(64, 512, (0,), weights=(1, 0, 4, 0, 0))
    estimated = one_pass("segment_pass", screen=0, segments={"attended": 0.2, "drawn": 0.2})
    real = counted(lambda: part.compute(model, sample))
    assert estimated.flops(shape_of(model, causal=False), length_of(sample)) == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_training_does_what_torch_counts(name, checkpointing):
    """Forward, backward and recomputation of a micro-batch of one sequence, on the same convention."""
    architecture, changes = MODELS[name]
    model = tiny_model(architecture, "eager", **changes).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    shape = shape_of(model, causal=False)
    ids = np.arange(200, dtype=np.int32) % 150
    loss = SequenceMeanLoss(model)
    loss._checked = True  # the check of packing, once for each training, is not counted
    batch = pack([TokenRow.whole(ids, np.where(np.arange(200) < 140, -100, ids).astype(np.int32))])
    real = counted(lambda: loss(model, batch).backward())
    again = recomputation_flops(shape, 200, 60, checkpointing)
    assert training_flops(shape, 200, 60) + again == pytest.approx(real, rel=0.02)
    assert training_flops(shape, 200, 60) < 0.8 * real or not checkpointing


def test_generation_does_what_torch_counts():
    model = tiny_model("llama", "eager")
    shape = shape_of(model, causal=False)
    prompt, new = 150, 40
    ids = torch.randint(3, 160, (1, prompt))
    real = counted(lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False))
    decoded = sum(4 * 4 * 16 * 4 * (prompt + place) for place in range(1, new))  # one query to all keys, four layers
    estimated = generation_flops(shape, prompt, new) - attention_flops(shape, prompt + new - 1)
    assert estimated + attention_flops(shape, prompt) + decoded == pytest.approx(real, rel=0.05)
    causal = replace(shape, causal=True)
    grown = attention_flops(causal, prompt + new - 1) - attention_flops(causal, prompt)
    assert grown == pytest.approx(decoded) == attention_flops(causal, prompt + new - 1, prompt)


def test_causal_attention_is_half_of_all_pairs_and_windows_are_less():
    config = {**LlamaConfig().to_dict(), "layer_types": ["sliding_attention", "full_attention"] * 16}
    plain = DecoderShape.from_config({**config, "layer_types": None})
    whole = attention_flops(replace(plain, causal=False), 8000)
    assert attention_flops(plain, 8000) == pytest.approx(whole / 2, rel=0.001)
    windowed = DecoderShape.from_config({**config, "sliding_window": 1000})
    assert windowed.windows == ((1000, 16), (None, 16))
    seen = sum(min(place + 1, 1000) for place in range(8000)) + 8000 * 8001 // 2
    assert attention_flops(windowed, 8000) == pytest.approx(16 * 4 * 4096 * seen)
    off = DecoderShape.from_config({**config, "layer_types": None, "sliding_window": 10, "use_sliding_window": False})
    assert off.windows == ((None, 32),)


def test_shapes_of_known_models():
    llama = DecoderShape.from_config(LlamaConfig().to_dict())
    assert llama.parameters == 6_738_415_616
    assert forward_flops(llama, 1, 1) == pytest.approx(2 * (llama.parameters - 32000 * 4096), rel=0.001)
    # the design's cost model, 12.95e9 T + 262 144 T² and 0.262e9 a row of logits
    assert forward_flops(llama, 65536, 100) == pytest.approx(
        12.95e9 * 65536 + 262144 * 65536**2 + 0.262e9 * 100, rel=0.001
    )
    mixtral = DecoderShape.from_config(
        {
            "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        }
    )  # fmt: skip
    assert mixtral.parameters == pytest.approx(46.7e9, rel=0.01)
    assert mixtral.layer_weights == pytest.approx(12.6e9, rel=0.02)
    assert DecoderShape.from_config({"text_config": LlamaConfig().to_dict()}) == llama
    # widths that differ between layers: Gemma 4's global layers, as transformers and config.json have them; Gemma 3n
    gemma, kinds = CONFIG_MAPPING["gemma4_text"](), ["sliding_attention"] * 5 + ["full_attention"]
    shapes = [DecoderShape.from_config(config) for config in (gemma, gemma.to_dict(), {"text_config": gemma.to_dict()})]
    assert {(shape.head_width, shape.key_heads) for shape in shapes} == {(round((5 * 256 + 512) / 6), 4)}
    assert {shape.windows for shape in shapes} == {((512, 25), (None, 5))}
    released = {"num_key_value_heads": 8, "num_global_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512}
    shape = DecoderShape.from_config({**gemma.to_dict(), "per_layer_config": {}, "layer_types": kinds * 5, **released})
    assert (shape.head_width, shape.key_heads) == (round((5 * 256 + 512) / 6), (5 * 8 + 2) // 6)
    assert DecoderShape.from_config(CONFIG_MAPPING["gemma3n_text"]()).mlp_width == 16384
    with pytest.raises(ModelError, match="has no num_hidden_layers, hidden_size"):
        DecoderShape.from_config({"n_embd": 768}, "gpt2")


@pytest.mark.parametrize("frozen", [False, True])
def test_the_trainers_mfu_counts_as_the_estimate_does(frozen, monkeypatch):
    """The output layer counts at targets only."""
    config, rows = LlamaConfig(), [{"n_tokens": 1000, "n_targets": 70}, {"n_tokens": 60000, "n_targets": 5}]
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("gateau.training.trainer.time.monotonic", lambda: next(clock))
    speed = Speed(config, frozen, world_size=2, peak=1e15, n_steps=1)
    speed._started = next(clock)
    speed.end(MixtureReader(rows, {}).sizes([1, 0]))
    shape = DecoderShape.from_config(config.to_dict())
    work = training_flops(shape, 1000, 70, frozen) + training_flops(shape, 60000, 5, frozen)
    assert speed.metrics() == {"tokens_per_second": 30500, "mfu": pytest.approx(work / 2 / 2e15)}


def test_segments_of_a_sample():
    sample, segments = SampleLength(context=300, frame=50, response=20), one_pass("segment_pass", segment_length=128)
    assert segments.sequences(sample) == [(178, 2), (94, 1), (50, 1), (21, 1)]
    assert segments.tokens(sample) == 2 * 178 + 94 + 50 + 21
    screened = one_pass("segment_pass", segment_length=128, screen=0.5)
    assert screened.sequences(sample) == [(178, 1), (94, 0.5), (50, 0.5), (21, 0.5)]
    partial = one_pass("segment_pass", segment_length=128, screen=0.5, segments={"attended": 0.3, "drawn": 0.2})
    assert partial.sequences(sample) == [(178, 1.5), (94, 0.75), (50, 1), (21, 1)]
    assert segments.sequences(replace(sample, context=256)) == [(178, 2), (50, 1), (21, 1)]
    assert segments.sequences(replace(sample, context=0)) == [(50, 1), (21, 1)]
    assert one_pass("short_pass", 49).sequences(sample) == []  # too_long


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2, "intermediate_size": 448}, {"head_dim": 64}])
def test_memory_of_a_forward_is_that_of_its_tensors(changes):
    """Bytes of all tensors that live at once, counted by torch's profiler over a real pass of 1500 tokens."""
    config = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 8, "num_key_value_heads": 8,
              "head_dim": 16, **changes}  # fmt: skip
    model = tiny_model("llama", "sdpa", **config)
    shape = shape_of(model)
    tokens = 1500
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        model(input_ids=ids, use_cache=False, logits_to_keep=20)
    live = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    estimated = forward_bytes(shape, tokens, 20, 4, on_cuda=False) / 1.05
    assert estimated - shape.parameters * 4 == pytest.approx(peak, rel=0.25)


def test_memory_of_the_designs_7b():
    """The design: 18 to 20 GB at 64k tokens in bfloat16 without the CUDA context, at best."""
    shape = DecoderShape.from_config(LlamaConfig().to_dict())
    found = forward_bytes(shape, 64000, 500, 2, probe=True)
    assert 20e9 < found < 23e9


# lengths

TEXTS = [("the old road turns " * (20 + number), "What is it?", "grass " * (number % 7 + 1)) for number in range(90)]


@pytest.fixture(scope="module")
def count(tiny_tokenizer):
    return lambda texts: [len(ids) for ids in tiny_tokenizer(texts, add_special_tokens=False).input_ids]


def test_bytes_become_tokens(count):
    rows = [(str(number), *own) for number, own in enumerate(TEXTS)]

    found = RawRows.of(rows, prompt="Read: ")
    assert len(found.sizes) == 90
    assert len(found.texts) == 48
    ratio = found.bytes_per_token(count)
    real = sum(count([f"{one[0]}Read: {one[1]}{one[2]}" for one in TEXTS]))
    assert sum(context + frame for context, frame, _ in found.sizes) / ratio == pytest.approx(real, rel=0.02)
    assert found.bytes_per_token(None) == ASSUMED_BYTES_PER_TOKEN
    lengths = found.samples(2, 300)
    assert max(one.total for one in lengths) == 300
    assert any(one.truncated for one in lengths)
    assert len(found.samples(2, 20)) < 90  # some have no room for any context


def test_an_estimate_leaves_out_the_rows_that_rule_samples_leaves_out(count):
    found = RawRows.of([(str(number), *own) for number, own in enumerate(TEXTS)], prompt="Read this. " * 50)
    found.n_read = 93

    real = [sum(count(list(own))) for own in TEXTS]
    least, most = sorted(real)[20], sorted(real)[70]
    ratio = sum(len("".join(own).encode()) for own in TEXTS) / sum(real)
    kept = found.kept(ratio, {"min_tokens": least, "max_tokens": most})
    wanted = {str(number) for number, own in enumerate(real) if least <= own <= most}
    assert len(wanted ^ set(kept.ids)) <= 4  # at the edges
    assert kept.sizes == [found.sizes[int(one)] for one in kept.ids]
    options = {"min_tokens": least, "seed": 5}
    drawn = [set(found.kept(ratio, {**options, "limit": limit}).ids) for limit in (10, 30)]
    assert [len(one) for one in drawn] == [10, 30]
    assert drawn[0] < drawn[1] <= set(found.kept(ratio, {"min_tokens": least}).ids)
    with pytest.raises(DataError, match=r"data\.limit is 91, but only about \d+ of the 93 rows of data\.long can be"):
        found.kept(ratio, {**options, "limit": 91})


def test_rows_that_a_selection_may_take():
    rows = [TrainingRow(tokens, 1) for tokens in range(100, 0, -1)]
    assert [one.tokens for one in spread(rows, 4)] == [13, 38, 63, 88]
    assert len(spread(rows, 500)) == 100
    assert len(fitted(rows, 50, "drop")) == 50
    assert sum(one.tokens == 50 for one in fitted(rows, 50, "truncate_context")) == 51


# measurements


def test_benchmark_files_add_up(tmp_path):
    (tmp_path / "benchmarks/train").mkdir(parents=True)
    stage = Stage("train", "mine", 1, 8, "train/*.tsv")
    assert stage.measured_hours(tmp_path) is None
    for name, seconds in (("a", "10.0"), ("b", "30.0"), ("c", "NA")):
        (tmp_path / f"benchmarks/train/{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:10\t100\n")
    assert stage.measured_hours(tmp_path) == pytest.approx(8 * 40 / 3600)
    (tmp_path / "benchmarks/train/d.tsv").write_text("seconds\n1\n")
    with pytest.raises(DataError, match="not a benchmark file of Snakemake"):
        stage.measured_hours(tmp_path)


# the script


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Tables and models of the first half of a run, each by its own script, and its configuration file."""
    folder = tmp_path_factory.mktemp("estimated")
    words, draw = (ROOT / "LICENSE").read_text().split(), random.Random(0)

    def text(count):
        return " ".join(draw.choices(words, k=count))

    rows = [row(f"{text(60)}\n\nWhere does it turn?", text(12), id=str(number)) for number in range(40)]
    write_jsonl(folder / "long.jsonl", rows)
    write_jsonl(folder / "short.jsonl", [row(text(12), text(6)) for number in range(30)])
    config = {
        "results_dir": "results",
        "data": {"long": "long.jsonl", "short": "short.jsonl"},
        "models": {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")},
        "scoring": {"shards": 2, "max_length": 1024, "short_context": "ntk", "device": "cpu"},
        "cam": {"segment_length": 64},
        "mixture": {"held_out": 2},
        "plan": {"epochs": 2, "sequences_per_step": 8, "token_budget": 2048},
        "train": {"experiments": "all", "device": "cpu"},
        "evaluate": {"benchmarks": ["needle", "mt_bench"], "experiments": "all", "assets": {"source": "own"}},
        "experiments": {"some": {"n_long": 20, "n_short": 10}, "all": {"method": "full"}},
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    return folder


def script(name, *arguments, folder=ROOT):
    """What a script prints. In this process: importing torch for each would take most of the time."""
    path, printed = ROOT / f"scripts/{name}.py", io.StringIO()
    argv = [str(path), *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


def estimate(folder, *arguments):
    """What the script prints and writes; ``arguments`` begin with other configuration files, if any."""
    out = folder / "out.json"
    text = script("estimate", "--configfile", folder / "my.yaml", *arguments, "--json", out, folder=folder)
    return text, json.loads(out.read_text())


def summarised(files, results):
    """Return the configuration of files with another results folder."""
    return Configuration({**read_configuration([str(file) for file in files]), "results_dir": str(results)})


def stage(found, title):
    return next(one for one in found["stages"] if f"{one['rule']} {one['name']}".strip() == title)


def size_of(path):
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def score(folder):
    """Samples, index, both token tables and the long and segment pass."""
    out = folder / "results"
    model, prompt = json.dumps({"path": str(TINY_PAIR / "long")}), DEFAULT_TEMPLATE
    common = ("--device", "cpu", "--progress-dir", out / "progress", "--model", model,
              "--max-length", 1024, "--samples", out / "samples/samples.parquet", "--index",
              out / "index/index.parquet")  # fmt: skip
    for kind, name in (("samples", "long"), ("chats", "short")):
        script(kind, "--input", folder / f"{name}.jsonl", f"--{kind}", out / kind / f"{kind}.parquet",
               "--rejects", out / kind / "rejects.jsonl", "--summary", out / kind / "summary.json")  # fmt: skip
    script("index", "--samples", out / "samples/samples.parquet", "--model", model, "--prompt", prompt,
           "--max-length", 1024, "--shards", 2, "--output", out / "index/index.parquet")  # fmt: skip
    for source, table in (("long", "samples/samples.parquet"), ("short", "chats/chats.parquet")):
        script("tokens", "--rows", out / table, "--source", source, "--model", model, "--format", "longalign",
               "--max-length", 65536, "--over-long", "drop", "--max-rejected-share", 0.1, "--preview", 1,
               "--workers", 1, "--tokens", out / f"tokens/{source}.parquet", "--rejects", out / "tokens/r.jsonl",
               "--summary", out / "tokens/s.json", "--preview-text", out / "tokens/p.txt",
               "--preview-html", out / "tokens/p.html")  # fmt: skip
    for shard in range(2):
        name = f"{shard:04d}-of-0002.parquet"
        script(
            "long_pass",
            *common,
            "--shard",
            shard,
            "--attention-block",
            16,
            "--layer-block",
            128,
            "--output",
            out / "long_pass" / name,
        )
        script("segment_pass", *common, "--shard", shard, "--segment-length", 64, "--batch-tokens", 2048,
               "--output", out / "segment_pass" / name)  # fmt: skip


def test_the_estimate_before_and_after_a_run(small_run):
    fewer = {
        "data": {"limit": 12, "max_tokens": 10_000},
        "experiments": {"share": {"n_long": {"share": 0.5}}, "tokens": {"n_long": {"tokens": 900}}},
    }
    (small_run / "fewer.yaml").write_text(yaml.safe_dump(fewer))
    text, fewer = estimate(small_run, small_run / "fewer.yaml")
    assert "data.long: data.max_tokens, data.limit keep about 12 of 40 rows." in text
    assert stage(fewer, "long_pass")["sequences"] == 12
    assert stage(fewer, "train share")["sequences"] == 2 * 6
    assert 2 * 600 < stage(fewer, "train tokens")["tokens"] <= 2 * 900
    text, before = estimate(small_run, "--peak-tflops", 1)
    assert "data.long: lengths are estimates" in text
    assert "measured on a sample" in text
    assert all(one["measured_hours"] is None for one in before["stages"])
    assert stage(before, "long_pass")["sequences"] == 40
    some, whole = stage(before, "train some"), stage(before, "train all")
    assert some["sequences"] == 2 * 30
    assert whole["sequences"] == 2 * 38
    assert stage(before, "generate some needle")["sequences"] == 100
    assert stage(before, "generate all mt_bench")["flops"] > 0
    hours = stage(before, "short_pass")["device_hours"]
    assert hours == pytest.approx(stage(before, "short_pass")["flops"] / 0.4e12 / 3600)

    score(small_run)
    benchmarks = small_run / "results/benchmarks/long_pass"
    benchmarks.mkdir(parents=True)
    for shard, shards in ((0, 2), (1, 2), (0, 4)):  # those of another number of shards do not count
        (benchmarks / f"{shard:04d}-of-{shards:04d}.tsv").write_text("s\tmax_rss\tmean_load\n2.0\t500\t90\n")
    text, after = estimate(small_run, "--peak-tflops", 1)
    assert "estimates" not in text
    for name in ("short_pass", "long_pass", "segment_pass", "tokens long", "tokens short"):
        assert stage(before, name)["tokens"] == pytest.approx(stage(after, name)["tokens"], rel=0.1), name
    assert stage(after, "long_pass")["measured_hours"] == pytest.approx(4 / 3600)
    for name in ("long_pass", "segment_pass"):
        found = size_of(small_run / f"results/{name}") + size_of(small_run / f"results/progress/{name}")
        assert 1 / 3 < stage(after, name)["disk"] / found < 3, name
    for source in ("long", "short"):
        found = size_of(small_run / f"results/tokens/{source}.parquet")
        assert 1 / 3 < stage(after, f"tokens {source}")["disk"] / found < 3

    total = next(line for line in text.splitlines() if line.startswith("| total"))
    assert si(sum(one["flops"] for one in after["stages"] if one["flops"])) in total

    line = start_summary(summarised([small_run / "my.yaml"], small_run / "results"))
    assert f"estimate: 40 long rows with {stage(after, 'long_pass')['tokens']:,.0f} tokens" in line
    for name in ("short_pass", "long_pass", "segment_pass"):
        assert f"{name} {stage(after, name)['flops']:.3g}" in line


@pytest.fixture(scope="module")
def contrasting_run(tmp_path_factory):
    """Samples and index: of rows longer than θ_S's window, one within it, one whose response alone exceeds it."""
    folder = tmp_path_factory.mktemp("contrasting")
    words, draw = (ROOT / "LICENSE").read_text().split(), random.Random(0)
    sizes = [(150, 10), (90, 20), (120, 5), (10, 10), (100, 120)]
    texts = [[" ".join(draw.choices(words, k=size)) for size in pair] for pair in sizes]
    rows = [row(f"{context}\n\nWhere?", response, id=context[:20]) for context, response in texts]
    write_jsonl(folder / "long.jsonl", rows)
    config = {
        "results_dir": "results",
        "data": {"long": "long.jsonl", "short": "none"},
        "models": {
            "short": {"path": str(TINY_PAIR / "short"), "window": 200}, "long": str(TINY_PAIR / "long"),
            "non_homologous": {"path": str(TINY_PAIR / "long"), "window": 300},
        },
        "scoring": {"shards": 1, "max_length": 1024, "short_context": "ntk", "device": "cpu"},
        "experiments": {
            "cut": {"method": "no_extended_window"}, "one": {"method": "one_model"},
            "again": {"method": "one_model", "alpha": 0.1}, "other": {"method": "non_homologous"},
        },
    }  # fmt: skip
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    out = folder / "results"
    script("samples", "--input", folder / "long.jsonl", "--samples", out / "samples/samples.parquet", "--rejects",
           out / "samples/rejects.jsonl", "--summary", out / "samples/summary.json")  # fmt: skip
    script("index", "--samples", out / "samples/samples.parquet", "--model", json.dumps(config["models"]["long"]),
           "--prompt", DEFAULT_TEMPLATE, "--max-length", 1024, "--shards", 1, "--output",
           out / "index/index.parquet")  # fmt: skip
    return folder, config


def contrast_pass(folder, config, name, short_context, *more):
    """Rule contrast_pass as the workflow calls it; returns the operations that torch counts."""
    out, contrast = folder / "results", contrasts(short_context)[name]
    own = ["--window-of", json.dumps(config["models"]["short"])] if name == "one_model" else []
    return counted(lambda: script(
        "contrast_pass", "--samples", out / "samples/samples.parquet", "--index", out / "index/index.parquet",
        "--shard", 0, "--max-length", 1024, "--model",
        json.dumps(as_object(config["models"][contrast.role])), "--device", "cpu", "--short-context",
        contrast.short_context, *own, *more, "--output", out / f"contrast_pass/{name}/0000-of-0001.parquet",
    ))  # fmt: skip


def as_object(model):
    return {"path": model} if isinstance(model, str) else model


@pytest.mark.parametrize("short_context", ["ntk", "truncate"])
def test_passes_of_contrasts_do_what_torch_counts(contrasting_run, tmp_path, short_context):
    """The whole script against the whole estimate; eager attention over all of S x S, as above."""
    folder, config = contrasting_run
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"scoring": {"short_context": short_context}}))
    shape, make = DecoderShape.from_config, classmethod(lambda cls, *given: replace(shape(*given), causal=False))
    with mock.patch.object(DecoderShape, "from_config", make):
        _, found = estimate(folder, tmp_path / "more.yaml")
        summary = start_summary(summarised([folder / "my.yaml", tmp_path / "more.yaml"], folder / "results"))
    for name in contrasts(short_context):
        real = contrast_pass(folder, config, name, short_context, "--attention", "eager", "--progress-dir",
                             tmp_path / name)  # fmt: skip
        expected = stage(found, f"contrast_pass {name}")
        assert expected["flops"] == pytest.approx(real, rel=0.05), name
        assert f"contrast_pass {name} {expected['flops']:.3g}" in summary
        written = size_of(folder / f"results/contrast_pass/{name}") + size_of(tmp_path / name)
        assert 1 / 3 < expected["disk"] / written < 3


def test_missing_inputs_are_named(tmp_path, small_run):
    config = yaml.safe_load((small_run / "my.yaml").read_text())
    config |= {"data": {"long": "none.jsonl", "short": "none"}, "models": {"short": "no/such-model", "long": "./bare"},
               "experiments": {"some": {"method": "one_model", "n_long": 20}}, "train": {"experiments": "all"},
              "scoring": {"max_length": 1024}, "evaluate": {}}  # fmt: skip
    (tmp_path / "bare").mkdir()
    shutil.copy(TINY_PAIR / "long/config.json", tmp_path / "bare")
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    text, found = estimate(tmp_path)
    notes = " ".join(found["notes"])
    assert "fetch it with `hf download no/such-model config.json`" in notes
    assert "data.long: none.jsonl: no such file" in notes
    assert "The long rows are left out." in notes
    assert "ASSUMED: give --peak-tflops" in text
    assert stage(found, "short_pass")["flops"] is None
    assert stage(found, "long_pass")["flops"] is None
    assert stage(found, "long_pass")["memory"] > 1e9  # known without any row
    assert stage(found, "train some")["disk"] >= 2 * 12 * 787_584

    write_jsonl(tmp_path / "none.jsonl", [row(f"some context {n}\n\nand a question", id=str(n)) for n in range(9)])
    _, found = estimate(tmp_path)
    assert any("3.7 bytes a token (ASSUMED" in note for note in found["notes"])
    assert stage(found, "long_pass")["flops"] > 0
    assert stage(found, "contrast_pass one_model")["flops"] is None  # the window of θ_S is not known
    assert any("train some: n_long is 20, but data.long has about 7 usable rows" in note for note in found["notes"])


def test_wrong_options_are_refused(small_run):
    result = run_script("estimate", "--configfile", small_run / "my.yaml", "--utilization", 40, cwd=small_run)
    assert result.returncode == 1
    assert "--utilization a share above 0 up to 1" in result.stderr


def test_an_unknown_experiment_is_refused(tmp_path):
    (tmp_path / "my.yaml").write_text("experiments: {a: {}}\ntrain: {experiments: [typo]}\n")
    result = run_script("estimate", "--configfile", tmp_path / "my.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert "train.experiments: typo is not an experiment; choose from a" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_summary_at_the_start_is_light(tmp_path):
    """Snakemake prints it: no torch, and words instead of exceptions."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import gateau.costs.start_summary;"
        "print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    configuration = summarised([], tmp_path)
    assert "not counted yet (rule index); gateau estimate" in start_summary(configuration)
    (tmp_path / "index").mkdir()
    (tmp_path / "index/index.parquet").write_text("no table")
    assert "estimate: not possible" in start_summary(configuration)
