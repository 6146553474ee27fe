"""The options of the frontend: the HTTP server, and what one request or one key may ask of it.

This module does not know how the engine does its work.
"""

from typing import Annotated, Literal

from gllm.config.keys import Keys
from gllm.config.kinds import integer, number, spelled, text
from gllm.config.option import Bytes, Count, Option, Section


class FrontendConfig(Section):
    """frontend: the HTTP server"""

    host: Annotated[str, text("127.0.0.1"), Option("address to listen on", ("--host",), "ADDRESS")] = (
        "127.0.0.1"
    )
    port: Annotated[int, integer(0, 65535), Option("port to listen on; 0: any free one", ("--port",))] = 8000
    tokenizer_workers: Annotated[
        int, integer(1, 64), Option("threads that tokenize prompts", ("--tokenizer-workers",))
    ] = 2
    tool_call_parser: Annotated[
        Literal["auto", "hermes", "llama3_json", "chatglm3", "glm4"],
        spelled({"qwen": "hermes", "qwen25": "hermes", "llama3": "llama3_json"}),
        Option(
            "how the model writes calls of tools; auto: as its family does", ("--tool-call-parser",), "FORM"
        ),
    ] = "auto"
    auto_tool_choice: Annotated[
        bool,
        Option(
            "let the model call the tools of a request by itself, which is tool_choice auto",
            (),
            switches={"--enable-auto-tool-choice": (True, False)},
        ),
    ] = True
    num_processes: Annotated[
        int,
        integer(1, 64),
        Option("processes that serve HTTP on the same port", ("--api-server-count", "--frontend-processes")),
    ] = 1
    api_keys: Annotated[
        Keys,
        Option(
            "keys that requests must carry, as KEY or name=KEY,name=KEY; with limits for each in a file; "
            "also GLLM_API_KEY",
            ("--api-key",),
            "KEYS",
        ),
    ] = ()
    admin_api_keys: Annotated[
        Keys,
        Option(
            "keys for the operator's routes, which are closed without one; also GLLM_ADMIN_API_KEY",
            ("--admin-api-key",),
            "KEYS",
        ),
    ] = ()
    allowed_origins: Annotated[
        Annotated[str, text("https://chat.example.com,https://other.example.com")] | None,
        Option(
            "origins of web pages that may call this server (CORS), with commas between them; "
            "* for all, without it none",
            ("--allowed-origins", "--cors-allow-origins"),
            "ORIGINS",
        ),
    ] = None
    log_requests: Annotated[
        bool,
        Option(
            "log a line for each request, without its prompt",
            (),
            switches={"--enable-log-requests": (True, False), "--disable-log-requests": (False, True)},
        ),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        spelled({}),
        Option("least severe lines that are logged", ("--log-level", "--uvicorn-log-level"), "LEVEL"),
    ] = "info"


class LimitsConfig(Section):
    """limits: what one request may ask for, and how long a shutdown waits"""

    max_body_bytes: Annotated[Bytes, Option("longest body of a request", ("--max-body-bytes",), "BYTES")] = (
        16 * 2**20
    )
    max_prompts: Annotated[Count, Option("most prompts of one request", ("--max-prompts",))] = 1024
    max_n: Annotated[
        int, integer(1, 128), Option("most outputs of one prompt (n, best_of)", ("--max-n",))
    ] = 64
    max_logprobs: Annotated[
        int, integer(0, 1024), Option("most likeliest tokens with log-probabilities", ("--max-logprobs",))
    ] = 20
    max_stop_strings: Annotated[
        Count, Option("most stop strings of one request", ("--max-stop-strings",))
    ] = 16
    max_stop_len: Annotated[Count, Option("longest stop string in characters", ("--max-stop-len",))] = 1024
    requests_per_minute: Annotated[
        Count | None,
        Option("most requests a minute of one API key", ("--requests-per-minute",)),
    ] = None
    tokens_per_minute: Annotated[
        Count | None,
        Option("most tokens a minute of one API key, prompts and answers", ("--tokens-per-minute",)),
    ] = None
    max_concurrency: Annotated[
        Count | None,
        Option("most requests of one API key that are open at once", ("--max-concurrency-per-key",)),
    ] = None
    shutdown_timeout_s: Annotated[
        float,
        number(0),
        Option(
            "seconds that running requests get to finish after SIGTERM", ("--shutdown-timeout",), "SECONDS"
        ),
    ] = 30.0
