r"""An interactive chat with a model in processes of its own, as `gllm chat`.

$ python examples/chat.py --model-path demo/model    # \clear starts anew, \exit leaves
"""

import argparse
from pathlib import Path

from gllm import LLM, SamplingParams
from gllm.chat import converse, offline_speaker

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo" / "model"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--model-path", default=DEMO_MODEL, help="directory of the checkpoint (default: %(default)s)"
)
parser.add_argument("--system", help="a system message that opens the conversation")
parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
args = parser.parse_args()

with LLM(model=args.model_path) as llm:
    converse(offline_speaker(llm, SamplingParams(temperature=args.temperature, max_tokens=None)), args.system)
