"""A stand-in for the judge in the demo: a server with OpenAI's chat completions, but without a language model.

It compares the words of the answer with those of the reference (F1 of words, or of characters in Chinese), or with
those of the question if there is no reference. The F1 is mapped to the scale that the prompt names. Every answer says
that it comes from a stand-in. With it, the judged benchmarks of the demo need no network, no API key and no second
model. Its ratings say nothing about quality.

``stand_in_judge.py --port 8000`` serves on this machine until it is stopped. ``stand_in_judge.py -- COMMAND…`` serves
while the command runs. The command finds the address in the environment variable STAND_IN_JUDGE_URL. An argument that
consists of this name is replaced by the address, so that no shell is needed.
"""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import FrameType
from typing import Any

from gateau.command import argument_parser, run
from gateau.errors import SettingsError
from gateau.files import write_text

MODEL = "stand-in-judge"
URL_VARIABLE = "STAND_IN_JUDGE_URL"
LABEL = "stand-in judge, no language model"

_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_CHINESE}]|[^\W_{_CHINESE}]+")
# "on a scale of 1 to 10", "1-5", "in 1, 2, 3"
_SCALE = re.compile(r"\b1\s*(?:to|-|–|, 2,(?: \d,)*)\s*(3|5|10)\b")
# "7: the main point is there", one line for each rating that may be given
_LEVEL = re.compile(r"^(\d+): \S", re.M)
# a heading on its own line: [Question], <|The Start of …|>, ### User:, The model's answer:
_HEADING = re.compile(r"^(?:\[([^\[\]]+)\]|<\|(.+?)\|>|### ([^\n:]+):?|([A-Z][^\n:.?]{0,40}):)[ \t]*$", re.M)
# a last paragraph such as "… for example: [[5]]" belongs to the task, not to the answer above it
_LAST_ADVICE = re.compile(r"\n\n[^\n]*\[\[[^\n]*\]\][^\n]*\Z")
# kinds of headings by their words; the first match counts
_KINDS = {
    "end": r"^the end of|^end of|^rating$",
    "other": r"^example|not to rate|conversation|^instruction$",
    "to rate": r"to rate$",
    "reference": r"reference|^the hidden sentence$",
    "answer": r"answer|summary|response|prediction|assistant",
    "question": r"question|^user$",
}
_SECONDS_BETWEEN_CHECKS = 0.5  # of the parent process


@dataclass(frozen=True)
class Heading:
    """A heading: its name in lower case, and the offsets in the prompt where its line starts and ends."""

    name: str
    start: int
    end: int

    @property
    def kind(self) -> str:
        """The kind of the part below: a key of ``_KINDS``, or "" if the line is not a heading."""
        return next((kind for kind, words in _KINDS.items() if re.search(words, self.name)), "")


@dataclass(frozen=True)
class Asked:
    """The parts of a prompt: the task, which names the scale, and the texts that are compared."""

    task: str
    question: str
    reference: str
    answer: str | None


def read_prompt(prompt: str) -> Asked:
    """Split a judge's prompt into its parts. ``answer`` is None if no heading names one.

    The last of several turns is rated. Other parts are searched for above the answer only. An answer under the heading
    "… to rate" extends to the last end, so no text inside the answer is taken for a heading.
    """
    prompt = _LAST_ADVICE.sub("", prompt)
    matches = _HEADING.finditer(prompt)
    every = [Heading(next(filter(None, m.groups())).lower(), m.start(), m.end()) for m in matches]
    headings = [heading for heading in every if heading.kind]
    to_rate = next((heading for heading in headings if heading.kind == "to rate"), None)
    answers = [heading for heading in headings if heading.kind == "answer"]
    rated = to_rate or (answers[-1] if answers else None)
    if rated is None:
        return Asked(prompt, "", "", None)
    after = [heading for heading in headings if heading.start > rated.start]
    if to_rate:
        after = [heading for heading in after if heading.kind == "end"][-1:]
    above = [heading for heading in headings if heading.start <= rated.start]
    texts = {
        heading.kind if heading.name != "instruction" else "task": prompt[heading.end : following.start].strip()
        for heading, following in pairwise(above)
    }
    return Asked(
        task=f"{prompt[: above[0].start]}\n{texts.get('task', '')}",
        question=texts.get("question", ""),
        reference=texts.get("reference", ""),
        answer=prompt[rated.end : after[0].start if after else None].strip(),
    )


def levels(prompt: str) -> list[int]:
    """Return the allowed ratings, ascending: those listed one per line, or a scale that starts at 1, or 1 to 10."""
    listed = sorted({int(number) for number in _LEVEL.findall(prompt)})
    if len(listed) > 1 and listed[0] == 1 and listed[-1] <= 10:
        return listed
    scale = _SCALE.search(prompt)
    return list(range(1, int(scale.group(1)) + 1 if scale else 11))


def overlap(answer: str, reference: str) -> float:
    """Return the F1 of the words of both texts, from 0 to 1.

    If ``reference`` is a list of references as Python prints it, the best F1 counts.
    """
    try:
        listed = ast.literal_eval(reference)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        listed = None
    if isinstance(listed, list) and listed:
        return max(_f1(answer, str(one)) for one in listed)
    return _f1(answer, reference)


def _f1(answer: str, reference: str) -> float:
    said, wanted = Counter(_WORD.findall(answer.lower())), Counter(_WORD.findall(reference.lower()))
    total = said.total() + wanted.total()
    return 2 * (said & wanted).total() / total if total else 0.0


def judgment(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the answer to a conversation: a label, the word overlap, and a rating in double brackets."""
    prompt = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    system = "\n".join(message["content"] for message in messages if message["role"] == "system")
    asked = read_prompt(prompt)
    if asked.answer is None:
        above, _, last = prompt.strip().rpartition("\n\n")
        compared, share = "the rest of the prompt", overlap(last, above)
    elif asked.reference:
        compared, share = "the reference", overlap(asked.answer, asked.reference)
    else:
        compared, share = "the question", overlap(asked.answer, asked.question)
    scale = levels(f"{system}\n{asked.task}")
    rating = scale[round(share * (len(scale) - 1))]
    return f"{LABEL}: word overlap with {compared} {share:.2f}, rating [[{rating}]]"


class BadRequest(Exception):
    """A request that is not a chat completion, with the HTTP status and OpenAI's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def completion(request: Any) -> dict[str, Any]:
    """Return an answer in OpenAI's format to a request for a chat completion. Each word counts as a token.

    Raises:
        BadRequest: the request is not a chat completion of this model.
    """
    if not isinstance(request, dict):
        raise BadRequest(400, "invalid_request", "the body must be a JSON object with model and messages")
    if request.get("model") != MODEL:
        raise BadRequest(404, "model_not_found", f"there is no model {request.get('model')!r}; the only one is {MODEL}")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise BadRequest(400, "invalid_request", "messages must be a list of objects with the texts role and content")
    if request.get("stream"):
        raise BadRequest(400, "invalid_request", "answers are not streamed; leave out stream")
    text = judgment(messages)
    n_prompt, n_answer = sum(len(message["content"].split()) for message in messages), len(text.split())
    return {
        "id": MODEL,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer},
    }


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


class Handler(BaseHTTPRequestHandler):
    """Answers POST /v1/chat/completions and GET /v1/models. Errors have OpenAI's format."""

    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_GET(self) -> None:
        """Answer /v1/models."""
        if self.path != "/v1/models":
            return self._refuse(BadRequest(404, "not_found", f"there is no {self.path}; use /v1/models"))
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": LABEL}]})

    def do_POST(self) -> None:
        """Answer /v1/chat/completions."""
        # the body is always read, because the connection stays open
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.path != "/v1/chat/completions":
                raise BadRequest(404, "not_found", f"there is no {self.path}; use /v1/chat/completions")
            try:
                request = json.loads(body)
            except ValueError as error:
                raise BadRequest(400, "invalid_request", f"the body is not JSON ({error})") from error
            self._send(200, completion(request))
        except BadRequest as error:
            self._refuse(error)

    def _refuse(self, error: BadRequest) -> None:
        self._send(error.status, {"error": {"message": str(error), "type": "invalid_request", "code": error.code}})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: hundreds of lines would hide the output of the command."""


class Server(ThreadingHTTPServer):
    """A server for this machine only, which listens as soon as it exists. Port 0 takes any free port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def start(self) -> None:
        """Serve in a background thread."""
        threading.Thread(target=self.serve_forever, daemon=True).start()


def serve(port: int, ready_file: str | None, parent: int | None) -> None:
    """Serve until SIGTERM or SIGINT arrives, or the process ``parent`` (a process id) has ended."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Server(port) as server:
        server.start()
        print(f"{LABEL}: {server.url}", flush=True)
        if ready_file:
            write_text(ready_file, server.url + "\n")
        while not stop.wait(_SECONDS_BETWEEN_CHECKS) and (parent is None or _is_alive(parent)):
            pass
        server.shutdown()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def serve_while(command: Sequence[str]) -> int:
    """Run ``command`` with the server's address in environment and arguments, and return its exit code as a shell does.

    SIGTERM, SIGINT and SIGHUP are passed on to the command, except for a Ctrl-C, which the terminal sends to the
    command itself.
    """
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if not children:
            sys.exit(128 + number)
        if number != signal.SIGINT or not _in_foreground():
            children[0].send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    with Server() as server:
        server.start()
        addressed = [server.url if argument == URL_VARIABLE else argument for argument in command]
        children.append(subprocess.Popen(addressed, env=_environment(server.url)))
        code = children[0].wait()
        server.shutdown()
    return code if code >= 0 else 128 - code


def _environment(url: str) -> dict[str, str]:
    """Return this process's environment with the server's address, which is exempt from proxies."""
    environment = {**os.environ, URL_VARIABLE: url}
    for name in ("no_proxy", "NO_PROXY"):
        environment[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    return environment


def _in_foreground() -> bool:
    """Return whether a Ctrl-C in the terminal reaches this process and its children."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def main() -> None:
    """Serve until stopped, or while a command runs."""
    parser = argument_parser(__doc__)
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one, which is printed)")
    parser.add_argument(
        "--ready-file", help="output: file with the address, written once the server listens (default: not written)"
    )
    parser.add_argument(
        "--parent-pid", type=int, help="id of a process; stop when it has ended (default: run until stopped)"
    )
    parser.add_argument("command", nargs="*", help="after --: serve while this command runs (default: none)")
    args = parser.parse_args()
    if not 0 <= args.port < 1 << 16:
        raise SettingsError(f"--port is {args.port}; a port is a number from 0 to 65535, and 0 takes a free one")
    if args.command:
        if args.port or args.ready_file or args.parent_pid:
            parser.error("--port, --ready-file and --parent-pid cannot be used with a command")
        sys.exit(serve_while(args.command))
    serve(args.port, args.ready_file, args.parent_pid)


if __name__ == "__main__":
    run(main)
