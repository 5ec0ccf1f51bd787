"""Changes of settings that lower the peak memory of a training, the cheapest first, each with its price."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateau.costs.training_memory import Engine, TrainingSetup, estimate

_SHORTEST = 1024  # tokens below which no shorter rows are advised
_ZERO3 = "train.deepspeed: config/deepspeed/zero3.json"


@dataclass(frozen=True)
class Knob:
    """A change of settings as one would write it, its price, and the training after the change."""

    change: str
    price: str
    setup: TrainingSetup


def knobs(setup: TrainingSetup, max_length: int, memory: float) -> list[Knob]:
    """Return the changes that lower the peak by at least 1 %, the cheapest first.

    Args:
        setup: the training.
        max_length: tokens of the longest sequence, which a micro-batch must be able to hold.
        memory: bytes of a device; if a size can be chosen, it is the first that fits.
    """
    found = [*_same_result(setup, max_length, memory), *_other_result(setup, max_length, memory)]
    now = estimate(setup).peak
    return [knob for knob in found if estimate(knob.setup).peak < 0.99 * now]


def _first_fitting(setups: list[TrainingSetup], memory: float) -> TrainingSetup:
    return next((one for one in setups if estimate(one).peak <= memory), setups[-1])


def _same_result(setup: TrainingSetup, max_length: int, memory: float) -> list[Knob]:
    """Return the changes that cost time or machines only."""
    engine, found = setup.engine, []
    if setup.attention in ("eager", "sdpa") and setup.on_cuda:
        flash = replace(setup, attention="flash_attention_2")
        found.append(Knob("train.attention: flash_attention_2", "none (pip install '.[gpu]')", flash))
    if max_length < setup.tokens:
        found.append(Knob(f"plan.token_budget: {max_length}", "more micro-steps", replace(setup, tokens=max_length)))
    if not setup.checkpointing:
        again = replace(setup, checkpointing=True)
        found.append(Knob("train.gradient_checkpointing: true", "a third more computing", again))
    sharded = replace(setup, engine=Engine(3), optimizer="adamw_torch")
    if setup.devices > 1 and (engine is None or engine.stage < 3):
        found.append(Knob(_ZERO3, "more communication", sharded))
    base, how = (setup, "") if engine else (sharded, f", {_ZERO3}")
    more = _first_fitting([replace(base, devices=base.devices * 2**power) for power in (1, 2, 3)], memory)
    found.append(Knob(f"train.nodes x train.ranks_per_node: {more.devices}{how}", "more devices", more))
    for name, offloading, is_on in (
        ("zero3_offload_optimizer", Engine(3, offload_optimizer=True), engine and engine.offload_optimizer),
        (
            "zero3_offload_all",
            Engine(3, offload_optimizer=True, offload_weights=True),
            engine and engine.offload_weights,
        ),
    ):
        if setup.on_cuda and not is_on:
            offloaded = replace(sharded, engine=offloading)
            price = f"slower steps, {estimate(offloaded).host / 1e9:.0f} GB of memory on each node"
            found.append(Knob(f"train.deepspeed: config/deepspeed/{name}.json", price, offloaded))
    return found


def _other_result(setup: TrainingSetup, max_length: int, memory: float) -> list[Knob]:
    """Return the changes that lead to another model."""
    found = []
    if setup.on_cuda and setup.optimizer != "adamw_8bit" and not setup.lora_rank:
        change = "train.optimizer: adamw_8bit" + (", train.deepspeed: null" if setup.engine else "")
        rounded = replace(setup, optimizer="adamw_8bit", engine=None)
        found.append(Knob(change, "optimizer states rounded to 8 bits", rounded))
    if not setup.lora_rank:
        found.append(Knob("train.lora: {r: 16}", "trains adapters only", replace(setup, lora_rank=16)))
    shorter = [tokens for tokens in (max_length // 2, max_length // 4, max_length // 8) if tokens >= _SHORTEST]
    if shorter:
        lower = _first_fitting([replace(setup, tokens=min(tokens, setup.tokens)) for tokens in shorter], memory)
        change = f"tokens.max_length and plan.token_budget: {lower.tokens}"
        found.append(Knob(change, "longer rows are left out or cut", lower))
    return found
