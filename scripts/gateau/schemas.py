"""Schemas of the tables between stages: every column with its type, meaning and unit."""

from __future__ import annotations

import pyarrow as pa

from gateau.tables import table_schema

_STATUS = (
    "ok, no_context (empty context), no_response (the tokenizer makes no token of it), too_long (does not fit even "
    "without context), non_finite (NaN or infinity) or screened_out (left out of the segment pass by scoring.screen)"
)
SCREENED_OUT = "screened_out"
RANKED_STATUSES = ("ok", SCREENED_OUT)
_TOKEN_NLL = (pa.list_(pa.float32()), "NLL of each response token, natural log")

SAMPLES = table_schema(
    id=(pa.string(), "the row's own id, or one derived from its content"),
    file=(pa.string(), "raw file the row came from"),
    line=(pa.int64(), "1-based line (JSON array: element) in that file"),
    dataset=(pa.string(), "the row's own data set label, null if it has none"),
    length=(pa.int64(), "the row's own length field, null if it has none; never used in a score"),
    context=(pa.string(), "long context c; empty when the user turn has no blank line"),
    instruction=(pa.string(), "instruction x"),
    response=(pa.string(), "response y: the last assistant turn"),
    messages=(pa.string(), "the row's messages as JSON, untouched if it came with `messages`"),
    digest=(pa.string(), "sha256 of context, instruction and response: the key of everything computed from them"),
)

CHATS = table_schema(
    id=(pa.string(), "the row's own id, or one derived from its content"),
    file=(pa.string(), "raw file the row came from"),
    line=(pa.int64(), "1-based line (JSON array: element) in that file"),
    dataset=(pa.string(), "the row's own data set label, null if it has none"),
    messages=(pa.string(), "the row's messages as JSON: role and content, and whatever else stood beside them"),
    digest=(pa.string(), "sha256 of the messages' roles and contents: the key of a chat's content"),
)

INDEX = table_schema(
    id=(pa.string(), "sample id"),
    row=(pa.int64(), "0-based row in samples.parquet"),
    shard=(pa.int32(), "shard that scores the sample, 0 .. shards - 1"),
    status=(pa.string(), "as far as lengths tell: ok, no_context, no_response or too_long"),
    n_context=(pa.int64(), "context tokens that are kept"),
    n_instruction=(pa.int64(), "tokens of the instruction on its own"),
    n_response=(pa.int64(), "tokens of the response"),
    n_tokens=(pa.int64(), "tokens of the whole scored sequence, frame included"),
    truncated_tokens=(pa.int64(), "context tokens cut from the left to fit max_length"),
    cost=(pa.float64(), "estimated floating point operations of all passes of a 7B decoder, for balancing only"),
)

SHORT_RESULT = table_schema(token_nll=_TOKEN_NLL)

LONG_RESULT = table_schema(
    token_nll=_TOKEN_NLL,
    attention=(
        pa.list_(pa.float16()),
        "mean attention weight of the context tokens over layers, heads and response rows, for each block of "
        "attention_block tokens, as a multiple of attention_peak",
    ),
    attention_peak=(pa.float64(), "the largest mean weight of a block"),
    attention_second_half=(pa.list_(pa.float16()), "the same over the second half of the layers"),
    attention_second_half_peak=(pa.float64(), "the largest mean weight of a block over the second half of the layers"),
    layer_attention=(
        pa.list_(pa.float16()),
        "mean weight per layer and block of layer_block tokens, layer by layer, as a multiple of layer_attention_peak",
    ),
    layer_attention_peak=(pa.float64(), "the largest mean weight of a block of a layer"),
    n_layers=(pa.int32(), "layers that attend"),
)

SEGMENT_RESULT = table_schema(
    segment_nll=(
        pa.list_(pa.float64()),
        "mean response NLL given each segment and the instruction; null if it was not read",
    ),
    segment_weight=(
        pa.list_(pa.float64()),
        "how many segments each one stands for, 0 for a segment that was not read; null if all segments were read",
    ),
    nll_instruction_only=(pa.float64(), "mean response NLL given the instruction and an empty context"),
    nll_response_only=(pa.float64(), "mean response NLL given nothing; null if nothing can precede a lone token"),
)


def shard_schema(result: pa.Schema) -> pa.Schema:
    """Return the schema of a shard's file: id, status, and the result of a pass (null if it could not be computed)."""
    key = table_schema(id=(pa.string(), "sample id"), status=(pa.string(), _STATUS))
    return pa.schema([*key, *result])


SCREEN = table_schema(
    id=(pa.string(), "sample id; rows are sorted by it"),
    shard=(pa.int32(), "shard that scores the sample"),
    hmp=(
        pa.float64(),
        "what is compared: HMP of log perplexities, minus its median among samples of similar length; null for a "
        "sample that cannot be ranked",
    ),
    admitted=(pa.bool_(), "whether the segment pass reads all segments; true for a sample that cannot be ranked"),
)

SCORES = table_schema(
    id=(pa.string(), "sample id; rows are sorted by it"),
    status=(pa.string(), _STATUS),
    n_context=(pa.int64(), "context tokens that were scored"),
    n_instruction=(pa.int64(), "tokens of the instruction"),
    n_response=(pa.int64(), "tokens of the response"),
    truncated_tokens=(pa.int64(), "context tokens cut from the left to fit max_length"),
    nll_short=(pa.float64(), "mean response NLL per token under θ_S, natural log"),
    nll_long=(pa.float64(), "mean response NLL per token under θ_L, natural log"),
    token_nll_short=(pa.list_(pa.float32()), "NLL of each response token under θ_S, natural log"),
    token_nll_long=(pa.list_(pa.float32()), "NLL of each response token under θ_L, natural log"),
    nll_instruction_only=(pa.float64(), "mean response NLL under θ_L given the instruction alone"),
    nll_response_only=(pa.float64(), "mean response NLL under θ_L given nothing; null if undefined"),
    segment_nll=(
        pa.list_(pa.float64()),
        "mean response NLL under θ_L given each segment and the instruction; null for a segment that was not read",
    ),
    segment_weight=(
        pa.list_(pa.float64()),
        "how many segments each one stands for, 0 for a segment that was not read; null if all segments were read",
    ),
    segment_attention=(pa.list_(pa.float64()), "mean attention weight per key token of each segment, all layers"),
    segment_attention_second_half=(pa.list_(pa.float64()), "the same over the second half of the layers"),
    cas=(pa.float64(), "cosine of softmax(-PPL) and segment_attention: contextual awareness by the paper's default"),
)

RANKING = table_schema(
    id=(pa.string(), "sample id"),
    rank=(pa.int64(), "1 = taken first"),
    score=(
        pa.float64(),
        "the score that the rank follows; with per_cluster, the best of each cluster come first; null for a sample "
        "that is screened out if the method needs the segment pass, and then the rank follows screen.hmp",
    ),
    hmp=(pa.float64(), "homologous models' perplexity score: Norm(PPL of θ_S) - Norm(PPL of θ_L)"),
    cas=(pa.float64(), "cosine of importance and attention, before orientation; null if the sample is screened out"),
    method=(pa.string(), "how the score was computed"),
    status=(pa.string(), "ok, or screened_out"),
    duplicate_of=(pa.string(), "the better ranked sample that this one nearly repeats, so that it is not selected"),
    cluster=(pa.int64(), "number of its cluster, where per_cluster is set"),
    held_out=(pa.bool_(), "whether it is kept from all trainings, to measure the held-out loss; it is never selected"),
)

PARTS = table_schema(
    id=(pa.string(), "sample id"),
    part=(pa.string(), "name of one part of the score; a method has the same parts for every sample"),
    value=(pa.float64(), "what was measured; null if it needs the segment pass, and the sample is screened out"),
    normed=(pa.float64(), "the value after its norm over the data set, or the value itself without a norm"),
    weight=(pa.float64(), "its factor: ranking.score is the sum of weight times normed over the parts"),
)

CONTRAST = table_schema(
    id=(pa.string(), "sample id; rows are sorted by it"),
    status=(pa.string(), _STATUS),
    nll=(pa.float64(), "mean response NLL per token under what stands in θ_S's place, natural log"),
)

REWARDS = table_schema(
    id=(pa.string(), "sample id"),
    status=(pa.string(), "ok, too_long (instruction and response exceed the model's window) or non_finite"),
    reward=(pa.float64(), "what models.reward gives, in its own unit"),
)

EMBEDDINGS = table_schema(
    id=(pa.string(), "sample id"),
    embedding=(pa.list_(pa.float32()), "of instruction and context, by models.embedder"),
)

SIGNATURES = table_schema(
    id=(pa.string(), "sample id"),
    signature=(pa.list_(pa.uint32()), "MinHash of the text's word 5-grams"),
)

TOKENS = table_schema(
    id=(pa.string(), "sample or chat id"),
    source=(pa.string(), "long or short"),
    input_ids=(pa.list_(pa.int32()), "token ids, no padding"),
    labels=(pa.list_(pa.int32()), "what each position should be predicted as, -100 where nothing is learnt"),
    pieces=(pa.list_(pa.int32()), "tokens of each piece; a piece is a sequence of its own, and most rows have one"),
    n_tokens=(pa.int64(), "length of both lists"),
    n_targets=(pa.int64(), "labels that are learnt"),
)

MIXTURE = table_schema(
    id=(pa.string(), "sample or chat id"),
    source=(pa.string(), "long or short"),
    split=(pa.string(), "train, or held_out: never trained on, to measure the loss"),
    row=(pa.int64(), "0-based row in the source's token table"),
    n_tokens=(pa.int64(), "length in tokens"),
    n_targets=(pa.int64(), "tokens that are learnt"),
)

PLAN = table_schema(
    epoch=(pa.int32(), "0-based epoch"),
    step=(pa.int32(), "0-based optimiser step, counted over all epochs"),
    rank=(pa.int32(), "process"),
    micro_step=(pa.int32(), "0-based micro-step within the step"),
    sequences=(pa.list_(pa.int64()), "0-based rows of the mixture, packed in this order"),
    n_tokens=(pa.int64(), "tokens of the micro-batch"),
)

_MESSAGES = (
    pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    "system, user and assistant messages",
)

MIXED_CHATS = table_schema(
    id=(pa.string(), "chat id"),
    dataset=(pa.string(), "the row's own data set label, null if it has none"),
    messages=_MESSAGES,
)

SELECTED = table_schema(
    id=(pa.string(), "sample id"),
    dataset=(pa.string(), "the row's own data set label, null if it has none"),
    length=(pa.int64(), "the row's own length field, null if it has none"),
    messages=_MESSAGES,
)

SELECTED_BY_RANK = pa.schema(
    [
        *SELECTED,
        *table_schema(
            rank=(pa.int64(), "rank among all ranked samples, 1 is best; rows are sorted by it"),
            score=(pa.float64(), "the score that the rank follows"),
        ),
    ]
)

ANSWERS = table_schema(
    model=(pa.string(), "name of the evaluated model"),
    benchmark=(pa.string(), "name of the benchmark"),
    item=(pa.string(), "id of the question within its benchmark"),
    turn=(pa.int32(), "turn of the dialogue, from 1"),
    prompt_sha256=(pa.string(), "SHA-256 of the prompt's token ids, written in decimal and separated by commas"),
    prompt_tokens=(pa.int64(), "length of the prompt in tokens"),
    truncated_tokens=(pa.int64(), "tokens of the question's text that were cut from its middle"),
    control_tokens=(pa.int64(), "control tokens in the question's text that were broken up"),
    answer=(pa.string(), "the answer, without reasoning"),
    reasoning=(pa.string(), "what the model wrote before the answer, with its marks"),
    new_tokens=(pa.int64(), "length of answer and reasoning in tokens"),
    finish_reason=(
        pa.string(),
        "stop, length (the most new tokens are reached) or window (the model's window is full)",
    ),
    score=(pa.float64(), "score without a judge, in the unit of the measure (mostly %); null if there is none"),
    protocol=(pa.string(), "how that score was computed; null without a score"),
    rating=(pa.float64(), "the judge's rating, in the unit of its measure; null if there is none"),
    judge=(pa.string(), "name of the judge; null without a rating"),
    record=(pa.string(), "further fields of the question as JSON, such as the right answers"),
)
