"""The first gLLM's script: the same as `gllm bench serve`, with its options.

python bench/benchmark_serving.py --help
"""

import sys

from gllm.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "serve", *sys.argv[1:]]))
