"""One completion from a gLLM server, by the official `openai` package.

gllm serve configs/demo.yaml          # in one terminal
python examples/client.py --stream    # in another
"""

import argparse
import sys

try:
    import openai
except ImportError:
    sys.exit("this example needs the openai package: pip install openai")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
parser.add_argument("--stream", action="store_true", help="print the text as it comes")
parser.add_argument("--prompt", default="A robot may not injure a human being")
parser.add_argument("--max-tokens", type=int, default=128)
args = parser.parse_args()

client = openai.OpenAI(base_url=f"http://{args.host}:{args.port}/v1", api_key="EMPTY")

try:
    model = client.models.list().data[0].id
    print(f"Model: {model}")
    print(args.prompt, end="", flush=True)
    if args.stream:
        for chunk in client.completions.create(
            model=model, prompt=args.prompt, max_tokens=args.max_tokens, stream=True
        ):
            print("".join(choice.text for choice in chunk.choices), end="", flush=True)
        print()
    else:
        answer = client.completions.create(model=model, prompt=args.prompt, max_tokens=args.max_tokens)
        print(answer.choices[0].text)
        print(answer.usage)
except openai.APIConnectionError:
    sys.exit(f"no server at {client.base_url}: start one with `gllm serve configs/demo.yaml`")
except openai.APIStatusError as error:
    sys.exit(f"the server refused: {error.message}")
