"""A server that speaks OpenAI's protocol and fails in the ways that a test asks for."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-never-to-be-seen-0123456789"


def question_of(body):
    """Return a call's prompt, or its last message."""
    return str(body["prompt"]) if "prompt" in body else body["messages"][-1]["content"]


class ScriptedServer(ThreadingHTTPServer):
    """A server whose ``script`` holds the steps for each question, one per call. The last step is repeated."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = {}
        self.default = "fine [[3]]"
        self.delay = 0.0
        self.usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        self.calls, self.times, self.keys, self.busy = [], [], set(), []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self):
        return Counter(map(question_of, self.calls))

    def handle_error(self, request, client_address):
        """Ignore errors, because some tests kill the client."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        started, server = time.perf_counter(), self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = question_of(body)
        with server.lock:
            number = server.asked()[question] if server.script else 0
            server.calls.append(body)
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
        steps = server.script.get(question, [server.default])
        step = steps[min(number, len(steps) - 1)]
        time.sleep(server.delay)
        try:
            self._behave(step)
        finally:
            server.busy.append((started, time.perf_counter()))

    def _behave(self, step):
        if self.path not in {"/v1/chat/completions", "/v1/completions"}:
            self._send(404, {"error": {"message": f"no {self.path}"}})
        elif isinstance(step, str):
            self._send(200, self._completion(step))
        elif step["kind"] == "status":
            error = {"message": f"error about {KEY}", "code": step.get("code")}
            headers = step.get("headers", {})
            self._send(step["status"], {"error": error}, headers() if callable(headers) else headers)
        elif step["kind"] == "slow":
            time.sleep(step["seconds"])
            self._send(200, self._completion(step["text"]))
        elif step["kind"] == "dropped":
            self.close_connection = True
            self.connection.close()
        elif step["kind"] == "truncated":
            whole = json.dumps(self._completion("[[3]]")).encode()
            self._send(200, whole[: len(whole) // 2])
        elif step["kind"] == "cut short":  # fewer bytes than the header promises
            self.send_response(200)
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        else:
            self._send(200, step["body"])

    def _completion(self, text):
        chat = self.path == "/v1/chat/completions"
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop", **said}
        value = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
        return value | ({"usage": self.server.usage} if self.server.usage else {})

    def _send(self, status, value, headers=()):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in dict(headers).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)


def status(number, **more):
    return {"kind": "status", "status": number, **more}
