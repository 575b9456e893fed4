"""A chat server for tests: it checks every request, and fails as it is told, item by item.

What becomes of an item depends on the item alone: `trouble` names what goes wrong the first time
it is asked for, `saying` what the model says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from PIL import Image

KEY = "sk-not-to-be-seen-0123456789"


def good(number: int) -> str:
    return json.dumps(
        {"ssc": f"A square number {number}.", "dsc": f"A square number {number}. It is plain."}
    )


class ChatServer:
    """Listens on a free port while it is a context.

    Args:
        trouble: What goes wrong at the n-th asking (from 0) for an item; None is nothing.
        saying: The model's words about an item.
        has_schema: Requests must bring a schema.
        has_picture: Requests must bring a JPEG of at most 24 pixels a side.
        knows_schemas: Requests that bring one are not refused.
        key: The only one let in.
        delay_s: Time that an answer takes.
        usage: Tokens of input and output that it says it counted.
        version: Name of the model that it says has answered.
        by_text: An item is a picture with its text, and `saying` is told the text too.
    """

    def __init__(
        self,
        *,
        trouble: Callable[[int, int], Any] = lambda number, asking: None,
        saying: Callable[..., Any] = good,
        has_schema: bool = True,
        has_picture: bool = True,
        knows_schemas: bool = True,
        key: str | None = KEY,
        delay_s: float = 0.0,
        usage: tuple[int, int] | None = (60, 40),
        version: str | None = None,
        by_text: bool = False,
    ) -> None:
        self.trouble, self.saying, self.delay_s, self.usage = trouble, saying, delay_s, usage
        self.has_schema, self.has_picture, self.key = has_schema, has_picture, key
        self.knows_schemas = knows_schemas
        self.version, self.by_text = version, by_text
        self.texts = Counter[str]()
        self.asked = Counter[str]()
        self.answered = Counter[str]()
        self.wrong: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.release = threading.Event()
        self._handler = _handler(self)

    def __enter__(self) -> ChatServer:
        self._http = _Server(("127.0.0.1", 0), self._handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def tokens(self) -> tuple[int, int]:
        num = sum(self.answered.values())
        return num * self.usage[0], num * self.usage[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error of the server."""


def text_of(body: dict[str, Any]) -> str:
    """Return the words of a request."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def failing_once(server: ChatServer, *, after: int) -> Callable[[int, int], Any]:
    """Return a trouble: status 503 for one request, once so many questions were answered."""
    failed = threading.Event()

    def trouble(number: int, asking: int) -> Any:
        with server.lock:
            if failed.is_set() or server.answered.total() < after:
                return None
            failed.set()
        return 503

    return trouble


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.reply(200, {"object": "list", "data": [{"id": "seer", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                self.answer(body)
            finally:
                with server.lock:
                    server.at_once -= 1

        def answer(self, body: dict[str, Any]) -> None:
            if server.key and self.headers.get("authorization") != f"Bearer {server.key}":
                said = f"wrong key {self.headers.get('authorization')}"
                self.reply(401, {"error": {"message": said}})
                return
            if body["model"] != "seer":
                error = {"message": "no such model", "code": "model_not_found"}
                self.reply(404, {"error": error})
                return
            if "response_format" in body and not server.knows_schemas:
                self.reply(400, {"error": {"message": "response_format is not supported"}})
                return
            item = self.look(body)
            number = int(hashlib.sha256(item.encode()).hexdigest()[:8], 16)
            with server.lock:
                asking = server.asked[item]
                server.asked[item] += 1
            match kind := server.trouble(number, asking):
                case None:
                    pass
                case "cut":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                case "hang":
                    server.release.wait(2)
                    self.close_connection = True
                    return
                case "drip" | "drip head":
                    self.close_connection = True
                    self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                    self.wfile.write(b"\r\n" if kind == "drip" else b"x: ")
                    while not server.release.wait(0.02):
                        self.wfile.write(b" ")
                    return
                case "html":
                    self.reply(200, "<!doctype html><title>Hello</title>", form="text/html")
                    return
                case int(status):
                    wait = {"retry-after": "0"} if status == 429 else {}
                    self.reply(status, {"error": {"message": f"trouble, {server.key}"}}, wait)
                    return
                case (int(status), str(said)):
                    self.reply(status, {"error": {"message": said}})
                    return
            time.sleep(server.delay_s)
            words = [text_of(body)] if server.by_text else []
            said = server.saying(number, *words)
            message = said if isinstance(said, dict) else {"content": said}
            reply = {
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
            reply["choices"][0]["finish_reason"] = message.pop("finish_reason", "stop")
            if server.version:
                reply["model"] = server.version
            if server.usage:
                names = ("prompt_tokens", "completion_tokens")
                reply["usage"] = dict(zip(names, server.usage, strict=True))
            with server.lock:
                server.answered[item] += 1
            self.reply(200, reply)

        def look(self, body: dict[str, Any]) -> str:
            """Check a request as a real server would; return what it asks about."""
            content = body["messages"][0]["content"]
            try:
                if server.has_schema:
                    form = body["response_format"]["json_schema"]
                    assert form["strict"]
                    assert set(form["schema"]["required"]) == set(form["schema"]["properties"])
                if not server.has_picture:
                    assert isinstance(content, str)
                    return content
                text, picture = content
                assert text["text"]
                head, data = picture["image_url"]["url"].split(",")
                assert head == "data:image/jpeg;base64"
                opened = Image.open(BytesIO(base64.b64decode(data, validate=True)))
                opened.load()
                assert opened.format == "JPEG"
                assert max(opened.size) <= 24
                if server.by_text:
                    data += text["text"]
                    with server.lock:
                        server.texts[text["text"]] += 1
                return hashlib.sha256(data.encode()).hexdigest()
            except Exception as error:
                server.wrong.append(repr(error))
                raise

        def reply(
            self, status: int, body: Any, headers: dict[str, str] | None = None, form: str = ""
        ) -> None:
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("content-type", form or "application/json")
            self.send_header("content-length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler
