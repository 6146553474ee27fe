"""Offline throughput: the first questions of a ShareGPT file, or a few built-in prompts, all at once.

$ python examples/batch_inference.py --print-output
$ python examples/batch_inference.py --model-path DIR --share-gpt-path ShareGPT.json --num-prompt 1000
"""

import argparse
import json
import time
from itertools import cycle, islice
from pathlib import Path

from gllm import LLM, SamplingParams

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo" / "model"
QUESTIONS = [
    "What is 12 + 30?",
    "Spell the word apple.",
    "What is the opposite of hot?",
    "Count from 3 to 8.",
    "What colour is the sky?",
    "Tell me a story about a fox.",
]
MAX_INPUT_TOKENS, MAX_TOKENS = 1024, 2048  # longer conversations are left out, as in the first gLLM

Request = tuple[str, list[int], int]  # the question, its token ids, and how many tokens to generate


def built_in(llm: LLM, num_prompts: int) -> list[Request]:
    """The questions above, again and again, as turns of a chat."""
    asked = islice(cycle(QUESTIONS), num_prompts)
    return [(text, llm.chat_prompt([{"role": "user", "content": text}]), 128) for text in asked]


def sharegpt(llm: LLM, num_prompts: int, file: str) -> list[Request]:
    """The first question of each conversation in `file`, and as many tokens as its answer there has."""
    tokenizer = llm.get_tokenizer()
    found: list[Request] = []
    for item in json.loads(Path(file).read_text(encoding="utf-8")):
        turns = item["conversations"]
        if len(turns) < 2 or turns[0]["from"] == "gpt" or len(found) == num_prompts:
            continue
        question = tokenizer.encode(turns[0]["value"])
        num_output = len(tokenizer.encode(turns[1]["value"], add_special_tokens=False))
        fits = len(question) + num_output <= min(MAX_TOKENS, llm.max_model_len)
        if question and num_output and len(question) <= MAX_INPUT_TOKENS and fits:
            found.append((turns[0]["value"], question, num_output))
    return found


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--model-path", default=DEMO_MODEL, help="directory of the checkpoint (default: %(default)s)"
)
parser.add_argument("--share-gpt-path", help="JSON file of conversations")
parser.add_argument("--num-prompt", "--num-prompts", type=int, default=8, help="(default: %(default)s)")
parser.add_argument("--gpu-memory-utilization", type=float, default=0.9, help="(default: %(default)s)")
parser.add_argument("--print-output", action="store_true", help="print what was generated")
args = parser.parse_args()

with LLM(model=args.model_path, gpu_memory_utilization=args.gpu_memory_utilization) as llm:
    if args.share_gpt_path:
        requests = sharegpt(llm, args.num_prompt, args.share_gpt_path)
    else:
        requests = built_in(llm, args.num_prompt)
    prompts = [{"prompt_token_ids": token_ids} for _, token_ids, _ in requests]
    params = [
        SamplingParams(temperature=0.6, top_p=0.9, max_tokens=num_output) for *_, num_output in requests
    ]

    began = time.perf_counter()
    results = llm.generate(prompts, params)
    seconds = time.perf_counter() - began

if args.print_output:
    for request, result in zip(requests, results, strict=True):
        print(f"{request[0]!r} -> {result.outputs[0].text!r}")
num_input = sum(len(result.prompt_token_ids) for result in results)
num_output = sum(len(result.outputs[0].token_ids) for result in results)
print(f"[Throughput(reqs/s)]: {len(results) / seconds:.2f}")
print(f"[Input tokens throughput(toks/s)]: {num_input / seconds:.2f}")
print(f"[Output tokens throughput(toks/s)]: {num_output / seconds:.2f}")
