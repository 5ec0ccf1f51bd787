"""The evaluated model as the harness sees it: in process, or behind a server.

The harness cuts a prompt that is too long on the left, and only warns. Here such a prompt is an error, before any
question is asked: what is cut may be the very text that a question is about.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import requests
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.models.utils import normalize_gen_kwargs

from gateau.errors import ServerError, SettingsError
from gateau.evaluation.client.server import key_from_environment

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DEFAULT_WINDOW = 2048  # of a model that does not define one, as in the harness
_LOGITS = 2**29  # values of 4 bytes; the harness computes those of the whole vocabulary for every token of a batch
_TELLS_NOTHING = {401, 403, 404, 408, 429}  # statuses that say nothing about log-probabilities
_WINDOWS = "loglikelihood_rolling"  # whole documents, which the harness cuts into windows by design
_PROBE_TEXT = "The sky is blue."


def in_process(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    window: int | None,
    batch_tokens: int,
    template_options: Mapping[str, Any],
    end_of_reasoning: str | None,
) -> HFLM:
    """Return a loaded model for the harness.

    Args:
        model: the loaded model.
        tokenizer: its tokenizer.
        window: largest length of prompt and answer together in tokens, or None if the model does not define one.
        batch_tokens: largest size of a batch in tokens, padding and new tokens included.
        template_options: variables that the chat template reads.
        end_of_reasoning: the text after which an answer begins, or None.
    """
    lm = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        max_length=window or _DEFAULT_WINDOW,
        batch_size=1,
        chat_template_args=dict(template_options),
        think_end_token=end_of_reasoning,
    )

    def check(kind: str, asked: Sequence[Instance]) -> None:
        longest = 1
        if kind == _WINDOWS:
            lm.batch_size_per_gpu = max(1, min(batch_tokens, _LOGITS // len(tokenizer)) // lm.max_length)
            return
        for one in asked:
            if kind == "generate_until":
                prompt, answer = len(lm.tok_encode(one.args[0])), new_tokens(one, lm.max_gen_toks)
                check_fits(one, prompt, answer, lm.max_length)
            else:
                prompt, answer = len(lm.tok_encode("".join(one.args))), 0
                check_fits(one, prompt - 1, 0, lm.max_length)  # the last token is only predicted
            longest = max(longest, prompt + answer)
        room = batch_tokens if kind == "generate_until" else min(batch_tokens, _LOGITS // len(tokenizer))
        lm.batch_size_per_gpu = max(1, room // longest)

    check_before(lm, check)
    return lm


def through_server(
    base_url: Callable[[], str],
    server: Mapping[str, Any],
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    window: int | None,
    template_options: Mapping[str, Any],
    end_of_reasoning: str | None,
) -> LocalCompletionsAPI:
    """Return the model behind an OpenAI-compatible server for the harness.

    Args:
        base_url: returns the server's address, which ends in /v1; called once an answer is not stored.
        server: its entry of ``evaluate.servers``.
        name: name of the model on the server.
        tokenizer, window, template_options, end_of_reasoning: see :func:`in_process`.
    """
    key = key_from_environment(server.get("key_variable") or "MODEL_SERVER_KEY")
    logging.getLogger("lm_eval.models.api_models").addFilter(_hides_headers)
    send_tokens = server.get("send") == "tokens"
    limit = window or _DEFAULT_WINDOW
    options: dict[str, Any] = {
        "model": name,
        "num_concurrent": int(server.get("concurrency") or 16),
        "timeout": int(server.get("timeout_seconds") or 1800),
        "max_length": limit + 1,  # the harness keeps one token of it for an answer
        "header": {"Authorization": f"Bearer {key}"} if key else {"Content-Type": "application/json"},
    }
    kind, path = (_TokensServer, "completions") if send_tokens else (_MessagesServer, "chat/completions")
    lm = kind(base_url="", tokenizer_backend=None, think_end_token=end_of_reasoning, **options)
    lm.asked_by(tokenizer, {**template_options}, dict(server.get("extra_body") or {}), send_tokens)

    def check(kind: str, asked: Sequence[Instance]) -> None:
        url = base_url()
        lm.base_url = f"{url}/{path}"
        if kind != "generate_until" and not (send_tokens and gives_prompt_probabilities(url, name, options["header"])):
            raise SettingsError(
                f"{asked[0].task_name}: this task needs the log-probabilities of its prompts, which this server does "
                "not give; evaluate the model in process, or through vLLM with send: tokens"
            )
        if kind == _WINDOWS:
            return
        for one in asked:
            if kind == "generate_until":
                if not send_tokens and json.loads(one.args[0].prompt)[-1]["role"] == "assistant":
                    raise SettingsError(
                        f"{one.task_name}: this task writes the start of the answer itself, which a chat server cannot "
                        "continue; set send: tokens for the model in evaluate.servers, or evaluate it in process"
                    )
                check_fits(one, lm.count(one.args[0]), new_tokens(one, lm._max_gen_toks), limit)
            else:
                check_fits(one, lm.count("".join(one.args)) - 1, 0, limit)

    check_before(lm, check)
    return lm


def check_before(lm: Any, check: Callable[[str, Sequence[Instance]], None]) -> None:
    """Have all requests of a kind checked before the first one is made."""

    def checked(kind: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(requests: Sequence[Instance], **options: Any) -> Any:
            if requests:
                check(kind, requests)
            return ask(requests, **options)

        return asked

    for kind in ("generate_until", "loglikelihood", _WINDOWS):
        setattr(lm, kind, checked(kind, getattr(lm, kind)))


def new_tokens(request: Instance, default: int) -> int:
    """Return the largest number of new tokens of a generated answer."""
    return int(normalize_gen_kwargs(request.args[1], default)["max_gen_toks"])


def check_fits(request: Instance, prompt: int, answer: int, window: int) -> None:
    """Raise SettingsError if a prompt and its answer are longer than the window."""
    if prompt + answer > window:
        room = f" and up to {answer} for the answer" if answer else ""
        raise SettingsError(
            f"{request.task_name}, item {request.doc_id}: the prompt takes {prompt} tokens{room}, but the model's "
            f"window is {window}; a cut prompt would measure something else, so lower evaluate.harness.lengths or "
            "evaluate.harness.num_fewshot, or leave out this task for the model"
        )


def gives_prompt_probabilities(base_url: str, model: str, header: Mapping[str, str]) -> bool:
    """Return whether a server returns the log-probability of each token of a prompt.

    Raises:
        ServerError: the server cannot be reached, or refuses the key or the model.
    """
    body: Any = {"model": model, "prompt": _PROBE_TEXT, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    try:
        answer = requests.post(f"{base_url}/completions", json=body, headers=dict(header), timeout=600)
        if answer.status_code in _TELLS_NOTHING or answer.status_code >= 500:
            raise ServerError(
                f"{base_url} answered {answer.status_code}; check the model's name, its key_variable in "
                "evaluate.servers, and that the server is ready"
            )
        found = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
        return answer.ok and len(found) > 2
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise ServerError(f"{base_url} cannot be reached ({error}); check that the server runs") from error
    except (requests.exceptions.RequestException, ValueError, LookupError, TypeError):
        return False


def _hides_headers(record: logging.LogRecord) -> bool:
    """Leave out the records of failed calls that show their headers, and so the key. Another record has the reason."""
    return not record.getMessage().startswith("Exception:")


class _WholeRequests:
    """The harness's cache, for whole requests only: a window of a document has no key."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook

    def add_partial(self, kind: str, key: Any, answer: Any) -> None:
        if key is not None:
            self._hook.add_partial(kind, key, answer)


class _Server:
    """What both kinds of servers add to the harness's: the model's own tokenizer and template, and further fields."""

    def asked_by(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_options: dict[str, Any],
        extra_body: dict[str, Any],
        send_tokens: bool,
    ) -> None:
        self.own_tokenizer, self.template_options, self.extra_body = tokenizer, template_options, extra_body
        if send_tokens:
            self.tokenizer, self.tokenizer_backend, self.tokenized_requests = tokenizer, "huggingface", True
        elif template_options:
            self.extra_body = {"chat_template_kwargs": template_options, **extra_body}

    def set_cache_hook(self, cache_hook: Any) -> None:
        super().set_cache_hook(_WholeRequests(cache_hook))  # type: ignore[misc]

    def tok_encode(self, string: Any, left_truncate_len: Any = None, **options: Any) -> Any:
        if not isinstance(string, str):
            return [self.tok_encode(one) for one in string]
        bos = self.own_tokenizer.bos_token
        return self.own_tokenizer.encode(string, add_special_tokens=not (bos and string.startswith(bos)))

    def count(self, prompt: Any) -> int:
        """Return the number of tokens of a prompt: a text, or messages as JSON."""
        if isinstance(prompt, str):
            return len(self.tok_encode(prompt))
        messages = json.loads(prompt.prompt)
        text = self.own_tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self.template_options
        )
        return len(self.own_tokenizer.encode(text, add_special_tokens=False))

    def _create_payload(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        body = {**super()._create_payload(*arguments, **options), **self.extra_body}  # type: ignore[misc]
        return {name: value for name, value in body.items() if value is not None}


class _TokensServer(_Server, LocalCompletionsAPI):  # type: ignore[misc]
    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.own_tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.template_options,
            )
        )


class _MessagesServer(_Server, LocalChatCompletion):  # type: ignore[misc]
    def tok_encode(self, string: Any, left_truncate_len: Any = None, **options: Any) -> Any:
        return string if not isinstance(string, str) else super().tok_encode(string)
