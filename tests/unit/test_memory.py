"""The memory estimate against the design's figures, simulated allocations and a real process; FLOPs."""

import contextlib
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig

from gateau.costs import training_memory
from gateau.costs.training_memory import (
    Engine,
    TrainingSetup,
    adapted_features,
    bytes_at,
    memory_items,
    peak_bytes,
)
from gateau.errors import SettingsError
from gateau.training import objective
from gateau.work import DecoderShape, peak_flops, training_flops

from benchmark.finetuning import estimated_bytes
from benchmark.harness import in_child
from unit.models import ARCHITECTURES, tiny_model

GB, GIB = 1e9, 2**30
STATES = ("weights", "gradients", "optimizer states")
UNLIKE_LLAMA = ("gemma3_images", "gemma4_images", "gemma4_shared", "llama4", "opt")
FULL_SIZE = {"gpt_oss": {"num_hidden_layers": 2, "num_local_experts": 32}, "qwen3_next": {"num_hidden_layers": 4}}


@pytest.fixture(scope="module")
def llama_7b():
    """Shape of Llama-2-7B."""
    return DecoderShape.from_config(LlamaConfig())


def engine(name):
    return Engine.read(f"config/deepspeed/{name}.json")


def paper(shape, **changes):
    """The paper's training: 64k tokens, bfloat16, ZeRO-3 on eight GPUs."""
    setup = TrainingSetup(
        shape=shape, tokens=65536, devices=8, devices_per_node=8, half=True, checkpointing=True, engine=engine("zero3")
    )
    return replace(setup, **changes)


def adapters(shape, rank=16):
    return rank * adapted_features(shape, "all-linear")


def peak(setup):
    return peak_bytes(memory_items(setup))


def sizes(setup, moment=None):
    """Items in GB by name, of one moment or all."""
    return {item.name: item.size / GB for item in memory_items(setup) if moment is None or moment in item.moments}


def states(setup):
    return sum(sizes(setup).get(name, 0.0) for name in STATES)


def test_the_designs_figures_for_a_7b_at_64k(llama_7b):
    assert llama_7b.parameters == 6_738_415_616
    found = sizes(paper(llama_7b), "backward")
    assert states(paper(llama_7b)) * 8 == pytest.approx(107.8, rel=0.01)
    assert states(paper(llama_7b)) == pytest.approx(13.5, rel=0.01)
    assert found["layer inputs"] == pytest.approx(17.2, rel=0.01)
    assert 10 <= found["one layer recomputed"] <= 13
    loss = sizes(paper(llama_7b), "loss")
    assert 0.9 * 3 <= loss["gathered weights"] + loss["reduce buckets"] + loss["logits at targets"] <= 1.1 * 4
    total = sum(size for name, size in found.items() if name not in ("allocator slack", "CUDA context, NCCL"))
    assert 0.9 * 45 <= total <= 1.1 * 48
    assert bytes_at(memory_items(paper(llama_7b)), "backward") == peak(paper(llama_7b)) < 80 * GIB
    assert paper(llama_7b).host_bytes == 0


def test_one_device_of_141_gb_needs_adam_in_8_bits_or_adapters(llama_7b):
    alone = paper(llama_7b, devices=1, devices_per_node=1, engine=None)
    memory_of_h200 = 139 * GIB
    assert peak(alone) > memory_of_h200
    assert peak(replace(alone, optimizer="adamw_8bit")) < memory_of_h200
    assert peak(replace(alone, adapters=adapters(llama_7b))) < 80 * GIB


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at a time, those of ``ignored`` left out; also of fake tensors."""

    def __init__(self, ignored):
        super().__init__()
        self.now = self.peak = 0
        self._known = {}
        for tensor in ignored:
            self._watch(tensor, 0)

    def _watch(self, tensor, size):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def gone(_):
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor, tensor.untyped_storage().nbytes())
        return result


def simulated_peak(config, tokens, *, half, autocast, checkpointing, lora=False, fake=True):
    """Bytes of activations at the peak of forward and backward, weights and their gradients left out."""
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext():
        dtype = torch.bfloat16 if half and (lora or not autocast) else torch.float32
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).train()
        base = model.model
        if lora:
            from peft import LoraConfig, get_peft_model

            model.enable_input_require_grads()
            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
        ids, positions = torch.zeros(1, tokens, dtype=torch.long), torch.arange(tokens)[None]
        with LiveBytes([*model.parameters(), *model.buffers(), ids, positions]) as live:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = base(ids, position_ids=positions, use_cache=False).last_hidden_state
            hidden[:, :10].float().sum().backward()
        return live.peak


ACTIVATIONS = (
    "autocast's bfloat16 weights",
    "layer inputs",
    "saved tensors of all layers",
    "one layer recomputed",
    "one layer's gradients",
    "final norm",
)


def activations(setup, ignored=None):
    items = [
        item for item in memory_items(setup) if (item.name not in ignored if ignored else item.name in ACTIVATIONS)
    ]
    return max(bytes_at(items, moment) for moment in ("loss", "backward"))


def estimated_peak(config, tokens, *, half, autocast, checkpointing, lora=False):
    shape = DecoderShape.from_config(config)
    setup = TrainingSetup(
        shape=shape, tokens=tokens, devices=1, devices_per_node=1, half=half, checkpointing=checkpointing,
        engine=Engine(0) if half and not autocast else None, adapters=adapters(shape) if lora else None,
    )  # fmt: skip
    return activations(setup)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("half", "autocast"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("widths", [{}, {"num_key_value_heads": 8, "intermediate_size": 14336}])
def test_activations_are_those_of_a_simulated_7b_at_64k(monkeypatch, widths, half, autocast, checkpointing):
    """Allocations of real forwards and backwards over tensors without memory; four layers of full width."""
    import transformers.models.llama.modeling_llama as llama

    monkeypatch.setattr(llama, "create_causal_mask", lambda **_: None)  # under simulation it would not be left out
    config = LlamaConfig(num_hidden_layers=4, **widths)
    options = {"half": half, "autocast": autocast, "checkpointing": checkpointing}
    simulated = simulated_peak(config, 65536, **options)
    assert simulated > 15 * GB
    assert estimated_peak(config, 65536, **options) == pytest.approx(simulated, rel=0.05)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_adapters_are_counted_too(checkpointing):
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=3, num_attention_heads=4, vocab_size=512
    )
    options = {"half": True, "autocast": True, "checkpointing": checkpointing, "lora": True}
    simulated = simulated_peak(config, 512, fake=False, **options)
    assert estimated_peak(config, 512, **options) == pytest.approx(simulated, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_are_those_of_a_real_process(checkpointing):
    """Resident memory of forward and backward through the trainer's own objective, in float32."""
    sizes_of_model = {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
        "vocab_size": 4096,
    }  # fmt: skip
    arguments = (sizes_of_model, 2048, checkpointing, "cpu")
    expected, measured = estimated_bytes(*arguments), 0.0
    for _ in range(3):  # a busy system takes idle pages away, so a process may look smaller than it is, never larger
        measured = max(measured, in_child("benchmark.finetuning:step_peak", *arguments))
        if measured / 1.5 < expected < measured * 1.5:
            break
    assert measured / 1.5 < expected < measured * 1.5


def test_the_logits_chunk_is_the_objectives():
    assert training_memory._CHUNK == objective._CHUNK


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - {*FULL_SIZE, *UNLIKE_LLAMA}))
def test_parameters_are_counted_as_the_real_model_has_them(architecture):
    """Biases and the norms that Llama does not have are left out."""
    model = tiny_model(architecture)
    shape = DecoderShape.from_config(model.config)
    assert shape.parameters == pytest.approx(sum(parameter.numel() for parameter in model.parameters()), rel=0.01)
    assert (shape.query_width, shape.key_width) == (64, 16 * model.config.num_key_value_heads)
    if architecture == "llama":
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", FULL_SIZE)
def test_parameters_of_large_expert_models_are_counted(architecture):
    """In tiny ones, the biases of experts and the convolutions of linear attention would be a large share."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**FULL_SIZE[architecture]))
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert DecoderShape.from_config(model.config).parameters == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("target_modules", ["all-linear", ["q_proj", "v_proj"], r".*\.mlp\..*_proj"])
def test_adapters_are_counted_as_peft_makes_them(target_modules):
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    features = adapted_features(DecoderShape.from_config(model.config), target_modules)
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=target_modules, task_type="CAUSAL_LM"))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert 3 * features == trained


def test_engines_are_read_from_the_committed_files(tmp_path):
    assert engine("zero3") == Engine(3)
    assert engine("zero2").stage == 2
    assert engine("zero3_offload_optimizer") == Engine(3, offload_optimizer=True)
    assert engine("zero3_offload_all") == Engine(3, offload_optimizer=True, offload_weights=True)
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 7e8}}')
    assert Engine.read(str(tmp_path / "own.json")) == Engine(3, bucket=500_000_000, live_parameters=700_000_000)
    assert Engine.read("none") is None
    with pytest.raises(SettingsError, match="see config/deepspeed"):
        Engine.read("no.json")


def test_each_zero_stage_divides_one_thing_more(llama_7b):
    """Bytes per parameter on each of eight devices: 2 of weights, 2 of gradients, 12 of states."""
    giga = llama_7b.parameters / GB
    for stage, expected in ((0, 2 + 2 + 12), (1, 2 + 2 + 12 / 8), (2, 2 + 2 / 8 + 12 / 8), (3, 16 / 8)):
        found = states(paper(llama_7b, engine=Engine(stage)))
        assert found == pytest.approx(expected * giga), stage
    replicated = sizes(paper(llama_7b, engine=None))
    assert sum(replicated[name] for name in STATES) == pytest.approx(16 * giga)
    assert replicated["DDP buckets"] == pytest.approx(4 * giga)
    assert "gathered weights" not in replicated


def test_offloading_moves_states_to_the_nodes(llama_7b):
    giga = llama_7b.parameters / GB
    setup = paper(llama_7b, devices=16, engine=engine("zero3_offload_optimizer"))
    assert states(setup) == pytest.approx(2 * giga / 16)
    assert setup.host_bytes / GB == pytest.approx((12 + 2 + 4) * giga / 2)
    everything = paper(llama_7b, devices=16, engine=engine("zero3_offload_all"))
    assert states(everything) == 0
    assert everything.host_bytes / GB == pytest.approx((12 + 2 + 4 + 2) * giga / 2)


def test_adapters_leave_gradients_and_states_small(llama_7b):
    full = paper(llama_7b, devices=1, engine=None)
    adapted = replace(full, adapters=adapters(llama_7b))
    found = sizes(adapted)
    assert adapted.trained == 39_976_960
    assert found["weights"] == pytest.approx(2 * 6.738 + 4 * 0.040, rel=0.01)
    assert found["gradients"] + found["optimizer states"] == pytest.approx(12 * 0.040, rel=0.01)
    assert peak(adapted) < 0.4 * peak(full)
    assert adapted.checkpoint_bytes == 12 * adapted.trained


def test_checkpoints_on_disk(llama_7b):
    """Bytes per parameter as the Trainer and DeepSpeed were seen to write them."""
    setup = paper(llama_7b)
    assert setup.checkpoint_bytes / GB == pytest.approx(95, rel=0.02)
    assert sum(setup.file_bytes) == 2 * setup.checkpoint_bytes + 2 * 2 * llama_7b.parameters
    for changed, expected in (
        (setup, 14),
        (replace(setup, half=False), 16),
        (replace(setup, engine=Engine(2)), 16),
        (replace(setup, half=False, engine=Engine(2)), 20),
        (replace(setup, engine=None), 12),
    ):
        assert changed.checkpoint_bytes == expected * llama_7b.parameters


def test_peaks_go_by_the_devices_name():
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert (
        peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == peak_flops("NVIDIA GH200 480GB") == 989e12
    )
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA B200") == 2250e12
    assert peak_flops("AMD Instinct MI300X") == 1307e12
    assert peak_flops("Some Device") is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_flops_are_those_that_torch_counts(architecture):
    """Every token is a target; torch counts all S x S pairs of attention, and so does the shape."""
    model = tiny_model(architecture, "eager")
    ids = torch.randint(0, 160, (1, 64))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    shape = replace(DecoderShape.from_config(model.config), causal=False)
    assert training_flops(shape, 64, 64) == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_flops_of_frozen_windowed_and_expert_models():
    llama = DecoderShape.from_config(LlamaConfig())
    linear = 2 * (6_738_415_616 - 32000 * 4096)  # the input embedding is looked up, not multiplied
    assert training_flops(llama, 1, 1) == pytest.approx(3 * linear, rel=0.001)
    assert training_flops(llama, 1, 1, frozen_weights=True) == pytest.approx(2 * linear, rel=0.001)

    def shape(architecture, **options):
        return DecoderShape.from_config(CONFIG_MAPPING[architecture](**options))

    windowed, whole = (shape("mistral", sliding_window=window) for window in (100, None))
    unseen = sum(max(place - 100, 0) for place in range(1000))
    difference = training_flops(whole, 1000, 1000) - training_flops(windowed, 1000, 1000)
    assert difference == pytest.approx(3 * 4 * 4096 * 32 * unseen, rel=0.01)
    layers = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
    assert shape("gemma3_text", sliding_window=100, **layers).windows == ((100, 2), (None, 2))
    assert shape("qwen3_next", num_hidden_layers=8).windows == ((None, 2),)
    assert shape("mixtral", num_experts_per_tok=2, intermediate_size=300).mlp_width == 600
    assert shape("qwen3_moe", num_experts_per_tok=8, moe_intermediate_size=70).mlp_width == 560
