"""Scores the rows of `align logprobs` with transformers and prints the largest difference of a sum.

    python transformers.py MODEL_FOLDER LOGPROBS_FILE

Prompts are not in that file, so the rows are plain texts: the first token is the prompt, which is the tokenizer's BOS.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, scored = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
worst = 0.0
for line in open(scored, encoding="utf-8"):
    row = json.loads(line)
    assert row["prompt_tokens"] == 1
    for completion in row["completions"]:
        ids = torch.tensor([[tokenizer.bos_token_id, *completion["token_ids"]]])
        with torch.no_grad():
            logps = model(ids).logits[0, :-1].log_softmax(-1)
        theirs = logps.gather(1, ids[0, 1:, None])[:, 0]
        ours = torch.tensor(completion["logprobs"])
        worst = max(worst, (theirs - ours).abs().max().item())
print(worst)
