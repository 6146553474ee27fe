r"""A chat with a gLLM server that keeps the history, by the official `openai` package.

$ gllm serve configs/demo.yaml          # in one terminal
$ python examples/chat_client.py        # in another; \clear starts anew, \exit leaves
"""

import argparse
import sys

try:
    import openai
except ImportError:
    sys.exit("this example needs the openai package: pip install openai")
from openai.types.chat import ChatCompletionMessageParam

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
parser.add_argument("--max-tokens", type=int, default=256, help="longest answer")
args = parser.parse_args()

client = openai.OpenAI(base_url=f"http://{args.host}:{args.port}/v1", api_key="EMPTY")


def chat() -> None:
    model = client.models.list().data[0].id
    print(f"Model: {model}")
    history: list[ChatCompletionMessageParam] = []
    while (line := input(">>> ").strip()) != r"\exit":
        if line == r"\clear":
            history.clear()
        elif line:
            history.append({"role": "user", "content": line})
            answer = ""
            for chunk in client.chat.completions.create(
                model=model, messages=history, max_tokens=args.max_tokens, stream=True
            ):
                text = "".join(choice.delta.content or "" for choice in chunk.choices)
                print(text, end="", flush=True)
                answer += text
            print()
            history.append({"role": "assistant", "content": answer})


try:
    chat()
except (EOFError, KeyboardInterrupt):
    print()
except openai.APIConnectionError:
    sys.exit(f"no server at {client.base_url}: start one with `gllm serve configs/demo.yaml`")
except openai.APIStatusError as error:
    sys.exit(f"the server refused: {error.message} (\\clear starts anew)")
