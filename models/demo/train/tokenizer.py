"""Train the byte-level BPE and turn the documents into token files.

DIR/docs.jsonl -> DIR/tokenizer.json, DIR/train.npy (u16, documents separated by the end token, prose repeated), and
DIR/heldout.npz (u16 code and prose), DIR/heldout.json (texts for prompts).
"""

import json
import os
import sys
import time

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from config import EOS, SPECIALS, TARGET

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
PROSE_REPEATS = 3


def train(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=EOS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert tok.get_vocab_size() == EOS, tok.get_vocab_size()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    assert tok.get_vocab_size() == TARGET.vocab and tok.token_to_id(SPECIALS[0]) == EOS
    return tok


def encode(tok, docs, batch=2000):
    parts = []
    for i in range(0, len(docs), batch):
        for e in tok.encode_batch_fast([d["text"] for d in docs[i:i + batch]], add_special_tokens=False):
            parts.append(np.array(e.ids + [EOS], dtype=np.uint16))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint16)


def main(out, ready=None, sample=24_000_000):
    t0 = time.time()
    docs = [json.loads(line) for line in open(f"{out}/docs.jsonl")]
    split = {(k, h): [d for d in docs if d["kind"] == k and d["held_out"] == h] for k in ("code", "prose") for h in (0, 1)}
    if ready and os.path.exists(ready):
        tok = Tokenizer.from_file(ready)
        tok.save(f"{out}/tokenizer.json")
    else:
        texts, size = [], 0
        for d in split["prose", 0] + split["code", 0]:
            if size < sample:
                texts.append(d["text"])
                size += len(d["text"])
        tok = train(texts)
        tok.save(f"{out}/tokenizer.json")
    print(f"tokenizer: {time.time() - t0:.1f} s", flush=True)
    held = {k: encode(tok, split[k, 1]) for k in ("code", "prose")}
    np.savez(f"{out}/heldout.npz", **held)
    with open(f"{out}/heldout.json", "w") as f:
        json.dump([d for k in ("code", "prose") for d in split[k, 1]], f)
    mixed = split["code", 0] + split["prose", 0] * PROSE_REPEATS
    np.random.default_rng(1).shuffle(mixed)
    tokens = encode(tok, mixed)
    chars = sum(len(d["text"]) for d in mixed)
    np.save(f"{out}/train.tmp.npy", tokens)
    os.rename(f"{out}/train.tmp.npy", f"{out}/train.npy")  # appears whole: the trainer waits for it
    print(f"tokens: train {len(tokens)}, {chars / len(tokens):.3f} characters a token; held out "
          f"{ {k: len(v) for k, v in held.items()} }; {time.time() - t0:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
