"""`python -m gllm`: the command `gllm`, where its script is not on the path."""

import sys

from gllm.cli import main

sys.exit(main())
