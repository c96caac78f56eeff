"""Acceptance of the drafter on held-out prompts, with the exported files, by the decode loop itself.

    evaluate.py DATA CHECKPOINT_DIR REPORT.json [--code N --prose N --tokens N]
"""

import argparse
import collections
import json
import time

import torch
from tokenizers import Tokenizer

import decode


def prompts(docs, tok, kind, count, shortest=48, longest=128):
    """Prompts as a user might give: the first tokens of held-out files; prose also from later paragraphs, where files run out."""
    out = []
    docs = [d for d in docs if d["kind"] == kind]
    for part in range(8):
        for d in docs:
            text = d["text"]
            if part:
                if kind == "code":
                    return out
                paragraphs = text.split("\n\n")
                text = "\n\n".join(paragraphs[part * max(6, len(paragraphs) // 8):])
            ids = tok.encode(text[:4000], add_special_tokens=False).ids
            n = shortest + (7919 * len(out)) % (longest - shortest + 1)
            if len(ids) < n + 64:
                continue
            text = tok.decode(ids[:n], skip_special_tokens=False)
            if "\ufffd" not in text:
                out.append(text)
            if len(out) == count:
                return out
    return out


def looped(ids):
    """Share of 8-token windows that occurred before in the same text."""
    grams = [tuple(ids[i:i + 8]) for i in range(len(ids) - 7)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def acceptance(target, drafter, ids, count, temperature=0.0, batch=64):
    rounds, requests, loops, texts, fresh = [], [], [], [], []
    for i in range(0, len(ids), batch):
        for out, r, _ in decode.dflash(target, drafter, ids[i:i + batch], count, temperature):
            texts.append(out)
            if r:
                rounds += r
                requests.append(sum(r) / len(r))
                loops.append(looped(out))
                fresh += r if loops[-1] < 0.2 else []
    histogram = collections.Counter(rounds)
    return {"requests": len(requests), "rounds": len(rounds), "mean_over_rounds": round(sum(rounds) / len(rounds), 3),
            "mean_over_requests": round(sum(requests) / len(requests), 3),
            "histogram": [histogram[k] for k in range(1, drafter.block + 1)],
            "repeated_8_grams": round(sum(loops) / len(loops), 3),
            "requests_that_hardly_repeat": sum(x < 0.2 for x in loops),
            "mean_over_their_rounds": round(sum(fresh) / max(1, len(fresh)), 3)}, texts


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("folder"), p.add_argument("report")
    p.add_argument("--code", type=int, default=128)
    p.add_argument("--prose", type=int, default=64)
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--temperature", type=float, default=0.0)
    args = p.parse_args()
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = Tokenizer.from_file(f"{args.folder}/tokenizer.json")
    docs = json.load(open(f"{args.data}/heldout.json"))
    target = decode.Target(args.folder, device)
    drafter = decode.Drafter(args.folder, target)
    report = {"tokens": args.tokens, "temperature": args.temperature, "block": drafter.block, "arithmetic": "float32"}
    for kind, n in (("code", args.code), ("prose", args.prose)):
        t0 = time.time()
        text = prompts(docs, tok, kind, n)
        ids = [tok.encode(t, add_special_tokens=False).ids for t in text]
        report[kind], out = acceptance(target, drafter, ids, args.tokens, args.temperature)
        print(kind, report[kind], f"{time.time() - t0:.0f} s", flush=True)
        report[kind]["samples"] = [{"prompt": a, "text": tok.decode(b, skip_special_tokens=False)} for a, b in zip(text, out)][:6]
        if kind == "code" and not args.temperature:  # decoding with drafts must give what decoding without gives
            plain = [o for o, _ in decode.greedy(target, ids[:16], args.tokens)]
            same = sum(a == b[:len(a)] for a, b in zip(plain, out))
            report["same_text_without_drafts"] = f"{same} of {len(plain)}"
            print("same text without drafts:", report["same_text_without_drafts"], flush=True)
    with open(args.report, "w") as f:
        json.dump(report, f, indent=1)
    for s in report["code"]["samples"][:2] + report["prose"]["samples"][:1]:
        print("-" * 40 + "\n" + s["prompt"] + "<<<>>>" + s["text"], flush=True)


if __name__ == "__main__":
    main()
