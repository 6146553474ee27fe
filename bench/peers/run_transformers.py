"""Transformers' `generate` in left-padded static batches of requests of like length."""

import importlib
import os
from collections.abc import Sequence

from bench.peers.loop import arguments, serve
from bench.peers.workload import Request

BATCH_SIZE = 16


def main() -> None:
    given = arguments()
    os.environ |= {"OMP_NUM_THREADS": str(given.num_threads), "HF_HUB_OFFLINE": "1"}
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    torch.set_num_threads(given.num_threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype))
    model.eval()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, do_sample=False)
    model.generation_config.eos_token_id = None

    def run(requests: Sequence[Request]) -> list[list[int]]:
        outputs: list[list[int]] = [[] for _ in requests]
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            batch = [requests[index] for index in indices]
            width = max(len(one.prompt) for one in batch)
            tokens = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for row, one in enumerate(batch):
                tokens[row, width - len(one.prompt) :] = torch.tensor(one.prompt)
                mask[row, width - len(one.prompt) :] = 1
            num_output = batch[0].num_output_tokens
            with torch.inference_mode():
                found = model.generate(
                    input_ids=tokens, attention_mask=mask, do_sample=False,
                    max_new_tokens=num_output, min_new_tokens=num_output,
                )  # fmt: skip
            for row, index in enumerate(indices):
                outputs[index] = found[row, width:].tolist()
        return outputs

    serve(given, transformers.__version__, run)


if __name__ == "__main__":
    main()
