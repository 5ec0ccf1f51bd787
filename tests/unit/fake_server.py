"""``fake_server.py MODEL PORT MODE``: a model server for tests that answers "fine", or fails as the mode says.

It starts a process that leaves its group, as servers with workers do. ``MODEL.started`` counts the starts.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

model, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(model + ".started", "a") as starts:
    starts.write("started\n")
with open(model + ".started") as starts:
    n_starts = len(starts.readlines())
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", model], start_new_session=True)
if mode == "dies at start":
    print("CUDA out of memory", flush=True)
    os._exit(3)
if mode == "port taken" or (mode == "port taken once" and n_starts == 1):
    print("OSError: [Errno 98] Address already in use", flush=True)
    os._exit(1)


class Handler(BaseHTTPRequestHandler):
    n_calls = 0

    def do_GET(self):
        is_well = not (mode == "never ready" or (mode == "hangs" and Handler.n_calls))
        if mode == "meets another":  # ready once a second server runs on this machine
            is_well = len(list(Path(model).parent.glob("*.started"))) == 2
        self.send_response(200 if is_well else 503)
        self.end_headers()
        if self.path == "/version":
            self.wfile.write(b'{"version": "1.5"}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.n_calls += 1
        if mode == "dies when asked" and Handler.n_calls == 3:
            print("segmentation fault", flush=True)
            os._exit(139)
        if mode == "hangs" or (mode == "waits" and Handler.n_calls == 3):
            time.sleep(600)
        text = "Rating: [[5]]" if mode == "judges" else "fine"
        choice = {"message": {"content": text}, "text": text, "finish_reason": "stop"}
        answer = json.dumps({"choices": [choice], "model": body["model"]})
        if mode == "garbage":
            answer = "<html>"
        status = {"wrong name": 404, "out of memory": 500}.get(mode, 200)
        if status == 500:
            print("CUDA out of memory", flush=True)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


Server(("127.0.0.1", port), Handler).serve_forever()
