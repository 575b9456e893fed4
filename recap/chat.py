"""One request over OpenAI's chat interface, and what each kind of end means.

A picture goes as a data URL, a schema as `response_format`; a server that knows no schemas is told
it in words from then on. The client's own retries are off: they would know no budget. Its time
limit begins anew with every byte, which a server that sends blanks to keep a connection never lets
end; so requests run on an event loop, in a thread of its own, that ends each in time.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from launch.errors import CaptionmixError, InputError, StoppedError
from recap.answers import Request, Sampling
from recap.config import EndpointConfig
from recap.key_cut import KeyCut

T = TypeVar("T")

LONGEST_SAID: Final = 2000
"""Characters kept of what a server says besides answers."""


class Reply(NamedTuple):
    """A successful reply, as it came."""

    raw: str


class Unanswered(NamedTuple):
    """No reply, and another attempt may have one."""

    status: int | None
    detail: str
    wait_s: float | None
    """Wait that the server asks for."""

    may_be_paid: bool
    """The request may have been worked on."""


class Refused(NamedTuple):
    """The server will not answer this however often it is asked."""

    status: int
    detail: str
    rule: str
    error: CaptionmixError | None
    """What stops the whole job, where this is not about the one request."""


class Chat:
    """A connection to a chat server.

    Args:
        cfg: The server.
        key: Its key, or None.
    """

    def __init__(self, cfg: EndpointConfig, *, key: str | None) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "asking an endpoint needs the package openai; install it with "
                "`pip install 'captionmix[endpoint]'`"
            ) from error
        self._openai, self._cfg, self._cut = openai, cfg, KeyCut(key)
        self._knows_schemas = True
        self._client = openai.AsyncOpenAI(
            api_key=key or "none", base_url=cfg.base_url, timeout=cfg.timeout_s, max_retries=0
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Disconnect; no request may be under way."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, request: Request) -> Reply | Unanswered | Refused:
        """Send a request once; once more without a schema where the server knows none."""
        has_schema = request.schema is not None and self._knows_schemas
        openai = self._openai
        try:
            found = self._in_time(
                self._client.chat.completions.with_raw_response.create(
                    **self._body(request, has_schema=has_schema)
                )
            )
            return Reply(self._cut.body(found.text))
        except (openai.APITimeoutError, TimeoutError):
            return Unanswered(None, f"no answer in {self._cfg.timeout_s:g} s", None, True)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            never_there = type(cause).__name__ in ("ConnectError", "ConnectTimeout")
            said = self._cut.text(f"{type(cause).__name__}: {cause}")
            return Unanswered(None, said, None, not never_there)
        except openai.APIStatusError as error:
            said = self._cut.body(error.response.text)[:LONGEST_SAID] or "(no words)"
            status, code = error.status_code, str(getattr(error, "code", None) or "")
            wait_s = asked_wait(error.response.headers)
        if has_schema and status in (400, 422) and _is_about_schemas(said):
            self._knows_schemas = False
            return self.ask(request)
        return self._judged(status, code, said, wait_s)

    def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a reply, from its beginning to its last byte for `timeout_s` at most.

        Raises:
            TimeoutError: There is none by then.
        """
        bounded = asyncio.wait_for(work, self._cfg.timeout_s)
        return asyncio.run_coroutine_threadsafe(bounded, self._loop).result()

    def _judged(
        self, status: int, code: str, said: str, wait_s: float | None
    ) -> Unanswered | Refused:
        cfg, low = self._cfg, f"{code} {said}".lower()
        where = f"{cfg.base_url}: status {status}, {said[:300]!r}."
        kept = "Every answer so far is kept."
        if status == 402 or (status == 429 and "insufficient_quota" in low):
            return Refused(
                status,
                said,
                "bad_request",
                StoppedError(
                    f"{where} The account has no money left; top it up and start the same command "
                    f"again. {kept}"
                ),
            )
        if status in (408, 409, 425, 429) or status >= 500:
            # What waited too long behind a gateway may have been answered, and billed.
            return Unanswered(status, said, wait_s, status in (408, 502, 504, 524))
        if status in (401, 403) and "content_" not in low:
            variable = cfg.key_variable or "(none: key_variable is null)"
            return Refused(
                status,
                said,
                "bad_request",
                InputError(
                    f"{where} The server does not let this key in; the key comes from the "
                    f"environment variable {variable}. Put a valid key there. {kept}"
                ),
            )
        if status in (404, 405):
            return Refused(
                status,
                said,
                "bad_request",
                InputError(
                    f"{where} The address or the model {cfg.model!r} is unknown to the server"
                    f"{self._models()}. base_url usually ends with /v1. {kept}"
                ),
            )
        about_size = any(word in low for word in ("too large", "too big", "exceed", "maximum size"))
        if status == 413 or (about_size and ("image" in low or "picture" in low)):
            return Refused(status, said, "picture_too_large", None)
        if "content_filter" in low or "content_policy" in low or "content policy" in low:
            return Refused(status, said, "refusal", None)
        return Refused(status, said, "bad_request", None)

    def _models(self) -> str:
        """Say which models the server names, where it does."""

        async def listed() -> list[str]:
            return sorted([model.id async for model in self._client.models.list()])

        try:
            names = self._in_time(listed())
        except (self._openai.OpenAIError, TimeoutError, AttributeError, TypeError, ValueError):
            return ""
        shown = self._cut.text(", ".join(names[:8])) + (", ..." if len(names) > 8 else "")
        return f", which names {shown}" if names else ""

    def _body(self, request: Request, *, has_schema: bool) -> dict[str, Any]:
        cfg = self._cfg
        words = [request.instruction, request.text]
        if request.schema is not None and not has_schema:
            words.append(
                "Answer with one JSON object alone, of this JSON schema: "
                + json.dumps(request.schema)
            )
        text = "\n\n".join(word for word in words if word)
        content: Any = text
        if request.picture is not None:
            content = [
                {"type": "text", "text": text},
                {"type": "image_url", "image_url": {"url": data_url(request.picture)}},
            ]
        # OpenAI's newer models refuse the older name, and some servers do not know the newer one.
        is_openai = "//api.openai.com" in cfg.base_url
        longest = "max_completion_tokens" if is_openai else "max_tokens"
        body: dict[str, Any] = {
            "model": cfg.model,
            "messages": [{"role": "user", "content": content}],
            longest: cfg.max_output_tokens,
        }
        told = sampling_of(request, cfg)._asdict()
        body |= {name: value for name, value in told.items() if value is not None}
        if has_schema:
            form = {"name": "answer", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


def sampling_of(request: Request, cfg: EndpointConfig) -> Sampling:
    """Return the sampling of a question: its own, or that of the settings."""
    return request.sampling or Sampling(cfg.temperature, cfg.seed)


def data_url(picture: bytes) -> str:
    """Write a picture's file as a data URL.

    Raises:
        InputError: It is none of PNG, JPEG, WebP and GIF.
    """
    heads = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
    for head, name in heads.items():
        if picture.startswith(head):
            return f"data:image/{name};base64,{base64.b64encode(picture).decode()}"
    raise InputError(
        f"a picture begins with {picture[:8]!r}; expected a PNG, JPEG, WebP or GIF file"
    )


def asked_wait(headers: Any) -> float | None:
    """Read how many seconds a server asks to wait: a number or a date; None where it does not.

    Source: RFC 9110, section 10.2.3.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name)
        if said is None:
            continue
        try:
            seconds = float(said) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
            except ValueError:
                continue
        if seconds == seconds and seconds < float("inf"):
            return max(0.0, seconds)
    return None


def _is_about_schemas(said: str) -> bool:
    low = said.lower()
    return any(word in low for word in ("response_format", "json_schema", "guided", "grammar"))
