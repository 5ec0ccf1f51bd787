"""The cases of ``gpu.py``: each runs on one device, and returns its figures."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from gateau.attention_profiles import block_means
from gateau.costs.lengths import SampleLength
from gateau.costs.passes import ScoringPass, forward_bytes
from gateau.costs.training_memory import TrainingSetup, adapted_features, memory_items, peak_bytes
from gateau.scoring.passes import LongPass
from gateau.training.packing import TokenRow, pack
from gateau.work import DecoderShape, training_flops

from benchmark.harness import PeakMemory, alternate
from benchmark.passes import BATCH_TOKENS, BLOCK, EXACT, SEGMENT, operations, passes, random_model
from benchmark.released import random_sample, released_flops, released_passes

QUESTION, RESPONSE = 50, 300
SHARES = (0.5, 0.4)  # of the segment pass, in the fast mode
ROWS = 10_000
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def config(sizes: tuple[int, ...], layers: int | None = None, **options: Any) -> Any:
    """Return the configuration of a Llama of these sizes."""
    found = dict(zip((*SIZES, "vocab_size"), sizes, strict=True))
    found["num_hidden_layers"] = layers or found["num_hidden_layers"]
    return LlamaConfig(**found, max_position_embeddings=131_072, **options)


def attention(device: str) -> str:
    """Return flash_attention_2 if it is installed, else sdpa, which needs no mask for one sequence."""
    return "flash_attention_2" if device == "cuda" and importlib.util.find_spec("flash_attn") else "sdpa"


def same_numbers(sizes: tuple[int, ...], tokens: int, device: str) -> dict[str, Any]:
    """Compare the long pass with a plain eager forward of the same two layers. Raises ValueError if they differ."""
    model = random_model(config(sizes, 2, attn_implementation=attention(device)), device)
    plain = random_model(config(sizes, 2, attn_implementation="eager"), device)
    plain.load_state_dict(model.state_dict())
    sample = random_sample(tokens, QUESTION // shrink(tokens), RESPONSE // shrink(tokens), sizes[-1])
    found = LongPass(BLOCK, SEGMENT).compute(model, sample)
    ids, n_response = torch.tensor([sample.sequence()], device=device), len(sample.response)
    with torch.no_grad():
        output = plain(ids, use_cache=False, output_attentions=True)
    nll = torch.nn.functional.cross_entropy(output.logits[0, -n_response - 1 : -1].float(), ids[0, -n_response:])
    weights = torch.stack([layer[0, :, -n_response:].float().mean((0, 1)) for layer in output.attentions]).mean(0)
    expected = block_means(weights[1 : 1 + len(sample.context)].cpu(), BLOCK)
    by_nll = abs(float(np.mean(found["token_nll"])) - float(nll))
    profile = np.array(found["attention"]) * found["attention_peak"]
    by_attention = float(np.abs(profile / expected - 1).max())
    note = f"mean NLL differs by {by_nll:.1g}, attention by at most {by_attention:.1%}"
    if by_nll > (0.02 if device == "cuda" else 1e-4) or by_attention > (0.05 if device == "cuda" else 0.002):
        raise ValueError(note)
    return {"note": note, "nll_difference": by_nll, "attention_difference": by_attention}


def score(measured: Any, name: str, sizes: tuple[int, ...], lengths: tuple[int, ...], device: str) -> None:
    """Measure the three passes at all lengths. ``measured`` is where the figures go."""
    kept: dict[str, Any] = {}

    def one_pass(one: Any, tokens: int) -> dict[str, Any]:
        if not kept:
            kept["model"] = random_model(config(sizes, attn_implementation=attention(device)), device)
            for warm in passes():
                warm.compute(kept["model"], random_sample(lengths[0] // 2, 20, 20, sizes[-1]))
        model = kept["model"]
        sample = random_sample(tokens, QUESTION // shrink(tokens), RESPONSE // shrink(tokens), sizes[-1])
        with PeakMemory(device) as used:
            rounds = 2 if tokens <= 16_384 else 1
            seconds = statistics.median(alternate({"": lambda: drop(one.compute(model, sample))}, rounds, device)[""])
        shape, rows, together = DecoderShape.from_config(model.config), len(sample.response) + 1, 1
        if one.name == "segment_pass":
            length = one.segment_length + sample.n_frame
            together = max(BATCH_TOKENS // length, 1)
            tokens, rows = together * length, together * rows
        size = model.dtype.itemsize
        estimate = forward_bytes(shape, tokens, rows, size, probe=one.name == "long_pass", on_cuda=False)
        flops = operations(one.name, model, sample)
        return {
            "seconds": seconds, "tokens_per_second": sample.n_tokens / seconds, "flops": flops,
            "share": flops / seconds / measured.result["matmul_flops_per_second"], "estimated_bytes": estimate,
            "peak_bytes": used.peak if device == "cuda" else used.added + size * shape.parameters,
        }  # fmt: skip

    for tokens in lengths:
        for one in passes():
            measured.run(name, one.name, tokens, lambda o=one, t=tokens: one_pass(o, t))


def drop(value: object) -> None:
    """Forget a result, so that only its time counts."""


def shrink(tokens: int) -> int:
    """Return by how much question and response of short samples are shorter."""
    return 1 if tokens >= 8192 else 10


def against_released(sizes: tuple[int, ...], tokens: int, device: str) -> dict[str, Any]:
    """Compare with the released algorithm on four layers, or fewer if their attention weights do not fit.

    The window is as long as the sample, so that the released algorithm pads nothing.
    """
    for layers in (4, 2):
        with contextlib.suppress(torch.OutOfMemoryError):
            return _against_released(sizes, tokens, device, layers)
        torch.cuda.empty_cache()
    return _against_released(sizes, tokens, device, 1)


def _against_released(sizes: tuple[int, ...], tokens: int, device: str, layers: int) -> dict[str, Any]:
    sample = random_sample(tokens, QUESTION // shrink(tokens), RESPONSE // shrink(tokens), sizes[-1])
    fast = random_model(config(sizes, layers, attn_implementation=attention(device)), device)
    slow = random_model(config(sizes, layers, attn_implementation="eager"), device)
    ways = {
        "released": lambda: released_passes(fast, slow, sample, tokens, SEGMENT, BATCH_TOKENS),
        "ours": lambda: drop([one.compute(fast, sample) for one in passes()]),
    }
    peaks = {}
    for way in ("ours", "released"):  # the first calls are slower
        with PeakMemory(device) as used:
            ways[way]()
        peaks[way] = used.added
    taken = alternate(ways, 2, device)
    ratio = statistics.median(a / b for a, b in zip(taken["released"], taken["ours"], strict=True))
    memory = peaks["released"] / peaks["ours"]
    return {
        "seconds": statistics.median(taken["ours"]), "ratio": ratio, "memory_ratio": memory, "layers": layers,
        "note": f"{ratio:.1f} in time, {memory:.3g} in memory, {layers} layers",
    }  # fmt: skip


def train(sizes: tuple[int, ...], tokens: int, device: str, rate: float) -> dict[str, Any]:
    """Measure one step with LoRA, gradient checkpointing and 8-bit Adam, the second of two."""
    if importlib.util.find_spec("peft") is None:
        return {"status": "absent: peft is not installed"}
    from peft import LoraConfig, get_peft_model

    from gateau.training.objective import SequenceMeanLoss

    half, rank = device == "cuda", 16
    eight_bits = half and importlib.util.find_spec("bitsandbytes") is not None
    model = random_model(config(sizes, attn_implementation=attention(device)), device)
    shape = DecoderShape.from_config(model.config)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if eight_bits:
        from bitsandbytes.optim import AdamW8bit

        optimizer = AdamW8bit(trained)
    else:
        optimizer = torch.optim.AdamW(trained)
    ids = np.arange(tokens, dtype=np.int32) % 50 + 3
    targets = RESPONSE // shrink(tokens)
    batch = pack([TokenRow.whole(ids, np.where(np.arange(tokens) < tokens - targets, -100, ids))]).to(model.device)
    objective = SequenceMeanLoss(model)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = objective(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with PeakMemory(device) as used:
        seconds = alternate({"step": step}, 2, device)["step"][1]
    optimizer_name = "adamw_8bit" if eight_bits else "adamw_torch"
    setup = TrainingSetup(
        shape=shape, tokens=tokens, devices=1, devices_per_node=1, half=half, checkpointing=True, engine=None,
        optimizer=optimizer_name, adapters=rank * adapted_features(shape, "all-linear"), on_cuda=half,
    )  # fmt: skip
    items = [item for item in memory_items(setup) if "CUDA context" not in item.name]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    flops = training_flops(shape, tokens, targets, frozen_weights=True)
    return {
        "seconds": seconds, "tokens_per_second": tokens / seconds, "share": flops / seconds / rate, "flops": flops,
        "peak_bytes": used.peak if half else used.added + weights, "estimated_bytes": peak_bytes(items),
        "note": f"LoRA, {optimizer_name}" + ("" if eight_bits or not half else "; bitsandbytes is absent"),
    }  # fmt: skip


def hours(result: dict[str, Any], name: str, model: Any, lengths: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the GPU-hours for 10 000 rows whose lengths are log-uniform between the least and the largest one.

    The operations are those of work.py. Each pass runs at its measured rate of the nearest length. The released
    algorithm, padded to the largest length, is counted at the rate of the long pass, although it waits for memory.
    """
    shape = DecoderShape.from_config(model)
    done = [one for one in result["cases"] if one["model"] == name and one["status"] == "ok"]
    rates = {
        rule: {one["tokens"]: one["flops"] / one["seconds"] for one in done if one["case"] == rule}
        for rule in ("short_pass", "long_pass", "segment_pass")
    }
    if not all(rates.values()):
        return
    least, most = math.log(lengths[0]), math.log(lengths[-1])
    quantiles = [math.exp(least + (number + 0.5) / 100 * (most - least)) for number in range(100)]
    question, response = (count // shrink(lengths[0]) for count in (QUESTION, RESPONSE))
    spent = dict.fromkeys([*rates, "truncated", "released"], 0.0)
    for tokens in map(round, quantiles):
        sample = SampleLength(tokens - question - response - 1, question + response + 1, response)
        nearest = min(lengths, key=lambda length: abs(math.log(length / tokens)))

        def rate(rule: str, nearest: int = nearest) -> float:
            return rates[rule].get(nearest) or rates[rule][max(rates[rule])]

        for rule in rates:
            spent[rule] += ScoringPass(rule, None, EXACT).flops(shape, sample) / rate(rule)
        spent["truncated"] += ScoringPass("short_pass", lengths[0] // 2, EXACT).flops(shape, sample) / rate(
            "short_pass"
        )
        work = released_flops(shape, tokens, question + response, lengths[-1], SEGMENT)
        spent["released"] += work / rate("long_pass")
    whole = spent["short_pass"] + spent["long_pass"]
    plans = {"exact": whole + spent["segment_pass"]}
    for share in SHARES:
        plans[f"fast, {share:.0%} of the segment pass"] = whole + share * spent["segment_pass"]
    least = spent["truncated"] + spent["long_pass"] + SHARES[-1] * spent["segment_pass"]
    plans[f"fast, {SHARES[-1]:.0%}, short pass cut to {lengths[0] // 2} tokens"] = least
    plans["the paper's recipe"] = spent["released"]
    for plan, seconds in plans.items():
        yield {"model": name, "plan": plan, "gpu_hours": seconds / len(quantiles) * ROWS / 3600,
               "lengths": [lengths[0], lengths[-1]]}  # fmt: skip
