"""A stand-in for a Python with vLLM: `vllm serve` with the parts of the server that the generator uses.

    python vllm_stand_in.py SETTINGS -c CODE                                      prints the version in the settings
    python vllm_stand_in.py SETTINGS -m vllm.entrypoints.cli.main serve FOLDER …  serves

The settings are a JSON file: `version`, `delay` (seconds until it is ready), `exit` (a message; it ends at once),
`stubborn` (whether it ignores the request to end) and `answers` (after how many requests it ends). Each server writes
its arguments, environment and processes to a file beside the settings; one of the processes stands for vLLM's engine.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VARIABLES = ("CUDA_VISIBLE_DEVICES", "VLLM_API_KEY", "RANK", "PYTHONPATH", "RAY_ADDRESS", "OPENAI_API_KEY", "HOME")


def serve(settings_file, settings, arguments):
    engine = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"])
    note = {
        "arguments": arguments,
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "processes": [os.getpid(), engine.pid],
        "questions": [],
    }

    def write():
        # The server can be ended at any time; a reader must not see half of a file.
        draft = settings_file.with_name(f"draft_{os.getpid()}")
        draft.write_text(json.dumps(note))
        draft.rename(settings_file.with_name(f"server_{os.getpid()}.json"))

    write()
    if settings.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: (engine.kill(), os._exit(0)))
    time.sleep(settings.get("delay", 0))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.reply(200 if self.path == "/health" else 404, {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
                return self.reply(401, {"error": {"message": "Unauthorized"}})
            text = "".join(part.get("text", "") for part in body["messages"][-1]["content"])
            kinds = [part["type"] for part in body["messages"][-1]["content"]]
            request = {name: value for name, value in body.items() if name != "messages"}
            with lock:
                note["questions"].append({"text": text, "kinds": kinds, **request})
                write()
                if len(note["questions"]) == settings.get("answers"):
                    print("the engine is out of memory", flush=True)
                    os._exit(3)
            finish_reason = "length" if text.endswith("3") else "stop"
            message = {"role": "assistant", "content": text.replace("q", "Q")}
            choice = {"index": 0, "message": message, "finish_reason": finish_reason}
            self.reply(200, {"id": "c", "object": "chat.completion", "model": body["model"], "choices": [choice]})

        def log_message(self, *arguments):
            """Print nothing."""

    port = int(arguments[arguments.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    settings_file = Path(sys.argv[1])
    settings = json.loads(settings_file.read_text())
    if sys.argv[2] == "-c":
        if settings["version"] is None:
            sys.exit("PackageNotFoundError: No package metadata was found for vllm")
        print(settings["version"])
    elif "exit" in settings:
        sys.exit(f"ValueError: no such model\n{settings['exit']}")
    else:
        assert sys.argv[2:5] == ["-m", "vllm.entrypoints.cli.main", "serve"]
        serve(settings_file, settings, sys.argv[5:])
