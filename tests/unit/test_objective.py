"""The loss: packing changes nothing, plans change nothing, and wrong masks are caught."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface

from gateau.errors import ModelError, SettingsError
from gateau.formats import IGNORED
from gateau.training import objective
from gateau.training.batching import PLANS, plan_epoch
from gateau.training.objective import SequenceMeanLoss, check_dense_mask, forward_arguments
from gateau.training.packing import TokenRow, pack

from unit.models import COMMON, tiny_model


def sequences(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        ids = rng.integers(3, COMMON["vocab_size"], length).astype(np.int32)
        labels = ids.copy()
        labels[: max(length // 2, 1)] = IGNORED
        made.append(TokenRow.whole(ids, labels))
    return made


def separate_logits(model, parts):
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0] for ids, *_ in parts])


def defined_loss(model, parts):
    """Mean token loss of each sequence, with each of its pieces on its own, in the plainest way; their sum."""
    total = 0.0
    for sequence in parts:
        losses, start = [], 0
        for length in sequence.pieces:
            ids, labels = (column[start : start + length] for column in sequence[:2])
            logits = separate_logits(model, [(ids, labels)])
            losses += [
                -torch.log_softmax(logits[place - 1].double(), -1)[labels[place]].item()
                for place in range(1, len(ids))
                if labels[place] != IGNORED
            ]
            start += length
        total += sum(losses) / len(losses) if losses else 0.0
    return total


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral_window", "gemma3_mixed"])
def test_packed_logits_are_those_of_each_sequence(architecture, attention):
    model = tiny_model(architecture, attention)
    parts = sequences(7, 150, 1, 33)
    batch = pack(parts)
    with torch.no_grad():
        packed = model(**forward_arguments(batch, attention)).logits[0]
    torch.testing.assert_close(packed, separate_logits(model, parts), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_packed_losses_on_a_gpu_are_those_of_each_sequence(attention):
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="needs flash-attn")
    model = tiny_model("llama", attention).to("cuda", torch.bfloat16)
    parts = sequences(700, 150, 1, 33)
    loss = SequenceMeanLoss(model)
    device = torch.device("cuda")
    with torch.no_grad():
        together = loss(model, pack(parts).to(device)).item()
        alone = sum(loss(model, pack([part]).to(device)).item() for part in parts)
    assert together == pytest.approx(alone, rel=2e-2)


def test_three_traps_raise_nothing_and_are_wrong():
    """Each differs from the right call by one argument only."""
    model, parts = tiny_model("llama", "sdpa"), sequences(7, 50, 33)
    batch, expected = pack(parts), separate_logits(model, parts)
    right = forward_arguments(batch, "sdpa")
    cache = {key: value for key, value in right.items() if key != "use_cache"}
    ones = {**right, "attention_mask": torch.ones_like(batch.input_ids)}
    AttentionInterface.register("nameless", AttentionInterface()["sdpa"])
    with torch.no_grad():
        for wrong in (cache, ones):
            assert (model(**wrong).logits[0] - expected).abs().max() > 0.1
        model.set_attn_implementation("nameless")
        assert (model(**right).logits[0] - expected).abs().max() > 0.1
    with pytest.raises(SettingsError, match="no registered mask function"):
        SequenceMeanLoss(model)


def test_a_model_whose_packing_fails_is_refused(monkeypatch):
    model = tiny_model("llama", "sdpa")

    def forgetful(batch, attention):
        return {**forward_arguments(batch, attention), "attention_mask": torch.ones_like(batch.input_ids)}

    monkeypatch.setattr(objective, "forward_arguments", forgetful)
    with pytest.raises(ModelError, match="attend to each other"):
        SequenceMeanLoss(model)(model, pack(sequences(5, 9)))


@pytest.mark.parametrize("trains", [True, False])
def test_dropout_does_not_disturb_the_check_of_packing(trains):
    model = tiny_model("llama", "sdpa", attention_dropout=0.5).train(trains)
    loss = SequenceMeanLoss(model)
    loss(model, pack(sequences(5, 9)))
    assert loss._in_head
    assert {module.training for module in model.modules()} == {trains}


@pytest.mark.parametrize("architecture", ["llama", "gemma2_softcap", "gemma3_mixed"])
def test_the_loss_is_the_definition(architecture):
    attention = "eager" if architecture == "gemma2_softcap" else "sdpa"
    model = tiny_model(
        architecture, attention, **({"final_logit_softcapping": 3.0} if "softcap" in architecture else {})
    )
    parts = sequences(40, 7, 90)
    loss = SequenceMeanLoss(model)
    got = loss(model, pack(parts)).item()
    assert got == pytest.approx(defined_loss(model, parts), rel=1e-6)
    assert loss._in_head == ("softcap" not in architecture), "capped logits cannot be cut short"


def in_pieces(*parts):
    """Return one sequence that holds others as its pieces."""
    return TokenRow(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_pieces_of_a_conversation_share_one_weight_and_do_not_see_each_other(attention):
    model, parts = tiny_model("llama", attention), sequences(40, 7, 90)
    together = [in_pieces(*parts[:2]), parts[2]]
    got = SequenceMeanLoss(model)(model, pack(together)).item()
    assert got == pytest.approx(defined_loss(model, together), rel=1e-6)
    assert abs(got - defined_loss(model, parts)) > 1
    alone = SequenceMeanLoss(model)(model, pack(together[:1])).item()  # a single sequence is packed, too
    assert alone == pytest.approx(defined_loss(model, together[:1]), rel=1e-6)


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_plan_gives_the_loss_of_the_definition(method, world_size):
    model = tiny_model("llama", "sdpa")
    parts = sequences(*np.random.default_rng(1).integers(3, 60, 24).tolist())
    lengths = [len(ids) for ids, *_ in parts]
    loss = SequenceMeanLoss(model)
    steps = plan_epoch(lengths, method, world_size=world_size, token_budget=90, sequences_per_step=12, seed=0, epoch=0)
    for step in steps:
        total = sum(loss(model, pack([parts[n] for n in batch])).item() for rank in step.ranks for batch in rank)
        mean = total / len(step.sequences)
        expected = defined_loss(model, [parts[n] for n in step.sequences]) / len(step.sequences)
        assert mean == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_gradients_in_chunks_are_those_of_plain_logits(monkeypatch):
    parts = sequences(40, 7, 90)
    plain, chunked = tiny_model("llama", "sdpa"), tiny_model("llama", "sdpa")
    batch = pack(parts)
    logits = plain(**forward_arguments(batch, "sdpa")).logits[0][batch.target_places]
    (torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum().backward()
    monkeypatch.setattr(objective, "_CHUNK", 16)
    SequenceMeanLoss(chunked)(chunked, batch).backward()
    for (name, one), other in zip(plain.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name, atol=1e-6, rtol=1e-4)


def test_a_filler_has_no_loss_and_a_gradient_for_every_weight():
    model = tiny_model("llama", "sdpa")
    loss = SequenceMeanLoss(model)(model, pack([]))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.abs().any() for p in model.parameters())


def test_the_output_layer_still_gives_logits_to_everyone_else():
    model = tiny_model("llama", "sdpa")
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        SequenceMeanLoss(model)(model, pack(sequences(9)))
        assert torch.equal(model(input_ids=ids).logits, before)


def test_dense_masks_are_refused_where_they_are_too_large():
    check_dense_mask("sdpa", 8192)
    check_dense_mask("flash_attention_2", 65536)
    with pytest.raises(SettingsError, match="flash-attn"):
        check_dense_mask("sdpa", 8193)
    whole, halves = sequences(8200), sequences(4100, 4100)
    forward_arguments(pack(whole), "sdpa")  # a single sequence needs no mask
    with pytest.raises(SettingsError, match=r"tokens\.turns: last"):
        forward_arguments(pack([in_pieces(*halves)]), "sdpa")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_packs_are_laid_end_to_end(lengths):
    parts = sequences(*lengths)
    batch = pack(parts)
    assert batch.input_ids[0].tolist() == [token for part in parts for token in part.input_ids]
    assert batch.position_ids[0].tolist() == [place for length in lengths for place in range(length)]
    assert batch.piece_starts.tolist() == np.cumsum([0, *lengths]).tolist()
    learnt = [sum(label != IGNORED for label in labels[1:]) for _, labels, _ in parts]
    assert batch.weights.sum().item() == pytest.approx(sum(count > 0 for count in learnt), abs=1e-5)
    assert (batch.input_ids[0][batch.target_places + 1] == batch.targets).all()


def test_flash_attention_is_told_where_sequences_start():
    arguments = forward_arguments(pack(sequences(5, 9)), "flash_attention_2")
    assert arguments["cu_seq_lens_q"].tolist() == [0, 5, 14]
    assert (arguments["max_length_k"], arguments["use_cache"]) == (9, False)
    assert "position_ids" not in forward_arguments(pack(sequences(5)), "flash_attention_2")
