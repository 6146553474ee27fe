"""One thread: tiny matrices gain nothing from more, and barriers on busy cores cost a lot."""

import torch

torch.set_num_threads(1)
