"""`python -m gllm.entrypoints.api_server --port P --model-path DIR`: the first gLLM's name of `gllm serve`.

Knows nothing but that.
"""

import sys

from gllm.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
