"""The demo's stand-in for a judge: a server that speaks OpenAI's chat completions and is no language model.

It rates by the words that answer and reference share (F1 of words; Chinese: of characters), put on the scale that it
finds in the prompt, and says in every answer what it is. Without a reference it takes the question instead. So the
demo's judged benchmarks run without a network, a key or a second model; their ratings say nothing about quality.

``stand_in_judge.py --port 8000`` serves on this machine until it is stopped. ``stand_in_judge.py -- COMMAND…`` serves
for as long as the command runs, which finds the address in the environment variable STAND_IN_JUDGE_URL; an argument
that is this very name becomes the address, so that no shell is needed.
"""

import argparse
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

from gateau.command import run
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
# a line that names the part below it: [Question], <|The Start of …|>, ### User:, The model's answer:
_HEADING = re.compile(r"^(?:\[([^\[\]]+)\]|<\|(.+?)\|>|### ([^\n:]+):?|([A-Z][^\n:.?]{0,40}):)[ \t]*$", re.M)
# "… for example: [[5]]" below the answer belongs to the judge's task
_LAST_ADVICE = re.compile(r"\n\n[^\n]*\[\[[^\n]*\]\][^\n]*\Z")
# what a heading's words say of the part below it; the first that fits
_KINDS = {
    "end": r"^the end of|^end of|^rating$",
    "other": r"^example|not to rate|conversation|^instruction$",
    "to rate": r"to rate$",
    "reference": r"reference|^the hidden sentence$",
    "answer": r"answer|summary|response|prediction|assistant",
    "question": r"question|^user$",
}
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Heading:
    """A line that names the part below it: the name in lower case, where the line starts and where it ends."""

    name: str
    start: int
    end: int

    @property
    def kind(self) -> str:
        """Of the part below: reference, answer, question, end (of an answer), other, or empty for no heading at all."""
        return next((kind for kind, words in _KINDS.items() if re.search(words, self.name)), "")


@dataclass(frozen=True)
class Asked:
    """What a prompt asks: the task (where it speaks of the scale), and the parts that are compared."""

    task: str
    question: str
    reference: str
    answer: str | None


def read_prompt(prompt: str) -> Asked:
    """The parts of a judge's prompt; ``answer`` is None where no heading names one.

    Of several turns the last is rated. A part is looked for above the answer only, and an answer under "… to rate" goes
    on to the last end, so nothing that its writer put into it counts as a heading.
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
    """The ratings that may be given, ascending: those listed one a line, else a scale from 1, else 1 to 10."""
    listed = sorted({int(number) for number in _LEVEL.findall(prompt)})
    if len(listed) > 1 and listed[0] == 1 and listed[-1] <= 10:
        return listed
    scale = _SCALE.search(prompt)
    return list(range(1, int(scale.group(1)) + 1 if scale else 11))


def overlap(answer: str, reference: str) -> float:
    """F1 of the words of both, from 0 to 1; of a list of references as Python prints it, the best."""
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
    """The answer to a conversation: what this is, how much of what was found, and a rating in double brackets."""
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
    """A request that is no chat completion: status, OpenAI's code, and what to do."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def completion(request: Any) -> dict[str, Any]:
    """OpenAI's answer to a request for a chat completion; tokens are counted as words. Raises BadRequest."""
    if not isinstance(request, dict):
        raise BadRequest(400, "invalid_request", "the body must be a JSON object with model and messages")
    if request.get("model") != MODEL:
        raise BadRequest(404, "model_not_found", f"no model {request.get('model')!r} here; the only one is {MODEL}")
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
    """POST /v1/chat/completions and GET /v1/models; errors have OpenAI's form."""

    protocol_version = "HTTP/1.1"  # clients keep their connections

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._refuse(BadRequest(404, "not_found", f"no {self.path} here; there is /v1/models"))
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": LABEL}]})

    def do_POST(self) -> None:
        # the body is read in any case, because the connection is kept
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.path != "/v1/chat/completions":
                raise BadRequest(404, "not_found", f"no {self.path} here; there is /v1/chat/completions")
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
        """A line for each of some hundred calls would bury the command's own output."""


class Server(ThreadingHTTPServer):
    """Listens on this machine only, from the moment it is made."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, daemon=True).start()


def serve(port: int, ready_file: str | None, parent: int | None) -> None:
    """Serve until SIGTERM or SIGINT comes or the process ``parent`` is gone."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Server(port) as server:
        server.start()
        print(f"{LABEL}: {server.url}", flush=True)
        if ready_file:
            write_text(ready_file, server.url + "\n")
        while not stop.wait(_SECONDS_BETWEEN_LOOKS) and (parent is None or _is_alive(parent)):
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
    """Run ``command`` with the server's address in environment and arguments; returns its exit code as a shell would.

    SIGTERM, SIGINT and SIGHUP are passed on, but for a Ctrl-C, which the terminal gives to the command itself.
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
    """Ours with the address, which no proxy can reach."""
    environment = {**os.environ, URL_VARIABLE: url}
    for name in ("no_proxy", "NO_PROXY"):
        environment[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    return environment


def _in_foreground() -> bool:
    """Whether a Ctrl-C of the terminal reaches this process and its children."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="default: a free one, which is printed")
    parser.add_argument("--ready-file", help="output: the address, once calls are taken")
    parser.add_argument("--parent-pid", type=int, help="stop when this process is gone")
    parser.add_argument("command", nargs="*", help="after --: serve while this command runs")
    args = parser.parse_args()
    if not 0 <= args.port < 1 << 16:
        raise SettingsError(f"--port is {args.port}; a port is from 0, any free one, to 65535")
    if args.command:
        if args.port or args.ready_file or args.parent_pid:
            parser.error("with a command there is nothing to choose: the port is free and the server ends with it")
        sys.exit(serve_while(args.command))
    serve(args.port, args.ready_file, args.parent_pid)


if __name__ == "__main__":
    run(main)
