"""The first gLLM's script: the same as `gllm bench throughput`, with its options.

python bench/benchmark_throughput.py --help
"""

import sys

from gllm.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "throughput", *sys.argv[1:]]))
