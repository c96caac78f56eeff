"""Golden files for the tests, from the exported checkpoint in float32.

    golden.py DATA CHECKPOINT_DIR GOLDEN_DIR
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import decode
import evaluate


def write(path, rows, **head):
    """A JSON list, or an object whose last member is `cases`; one row a line."""
    body = "[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]"
    with open(path, "w") as f:
        f.write((json.dumps(head)[:-1] + ', "cases": ' + body + "}" if head else body) + "\n")


def logits(target, tok, docs, path, count=192):
    """A held-out file with both prose and code near its beginning."""
    def score(d):
        head = d["text"][:600]
        return ('"""' in head) + head.count("\n# ") * 0.2 + ("import " in head) + ("def " in head) + ("class " in head)

    text = max((d for d in docs if d["kind"] == "code" and d["path"].endswith(".py") and len(d["text"]) > 1500), key=score)["text"]
    ids = tok.encode(text, add_special_tokens=False).ids[:count]
    target.reset(1, count)
    tokens = torch.tensor([ids], device=target.device)
    out, _ = target.step(tokens, torch.zeros(1, dtype=torch.long, device=target.device))
    save_file({"tokens": torch.tensor(ids, dtype=torch.int32), "logits": out[0].float().cpu().contiguous()}, path)
    loss = torch.nn.functional.cross_entropy(out[0, :-1], tokens[0, 1:]).item()
    print(f"golden logits: {count} tokens, loss {loss:.4f}")


def decodes(target, drafter, tok, prompts, docs, path, count=64):
    """Of many prompts those whose greedy choices are clearest, so that rounding elsewhere cannot change them: four of code,
    two of prose, and one that ends with the end token (the ends of files are tried for it)."""
    tails = []
    for d in docs:
        if d["kind"] == "code":
            ids = tok.encode(d["text"], add_special_tokens=False).ids
            tails.append(ids[-84:-20])
    sets = [(kind, [tok.encode(p["text"], add_special_tokens=False).ids for p in prompts if p["kind"] == kind], n)
            for kind, n in (("code", 4), ("prose", 2))] + [("code", tails[:128], 1)]
    cases = []
    for kind, ids, keep in sets:
        plain, drafted = decode.greedy(target, ids, count), decode.dflash(target, drafter, ids, count)
        rows = []
        for prompt, (a, gap), (b, rounds, drafts) in zip(ids, plain, drafted):
            ends = b[-1] == target.end
            if a == b and evaluate.looped(b) < 0.25 and ends == (ids is sets[2][1]) and len(b) >= 12:
                rows.append({"kind": kind, "prompt": prompt, "output": b, "accepted": rounds, "drafts": drafts,
                             "smallest_gap": round(gap, 5)})
        rows.sort(key=lambda r: -r["smallest_gap"])
        if len(rows) < keep:
            print(f"only {len(rows)} of {len(ids)} prompts qualify")
        cases += rows[:keep]
    write(path, cases, block=drafter.block, max_tokens=count,
          about="greedy decoding, block 8. The first output token comes from the prompt's own pass. accepted: tokens emitted in each "
                "round, the last uncut; drafts: the seven drafted ids of each round; smallest_gap: least difference of the two best logits")
    print("decode cases:", [(c["kind"], len(c["output"]), c["smallest_gap"],
                             round(sum(c["accepted"]) / len(c["accepted"]), 2)) for c in cases])


def strings(docs):
    """About 200 texts that a tokenizer may get wrong."""
    out = ["", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t", "\t\t x", "\r\n", "a\r\nb\r\n", "\r", "a\rb", "x", "é", "e\u0301", "\u00a0", "\u3000 x",
           "a\u00a0b", "\u2028line", "\u0085next", "\x00", "a\x00b", "\x7f", "\x1b[0m", "\ufeffbom", "\ufffd", "\U0010ffff", "\u200b\u200d",
           "hello", " hello", "  hello", "hello ", "hello  ", "hello   world", "Hello, World!", "HELLO", "don't", "DON'T", "it's we'll they've I'd you're I'm",
           "'s", " 's", "'S 'T 'RE 'VE 'M 'LL 'D", "'\u017f", "x'sy", "''s", "1", "12", "123", "1234", "12345678901", "3.14159", "1e-5", "0x7fffffff", "1,000,000", "v2.5.1",
           "\u0661\u0662\u0663\u0664", "\u00bd\u00b2", "\u2167", "x1y22z333", "a1 b2", "___", "__init__", "snake_case_name", "CamelCaseName", "SCREAMING_CASE", "kebab-case",
           "()", "[]{}", "(a, b)", "f(x)[0].y", "a->b", "a::b", "==>", "!=", "<=>", "...", "....", "#include <stdio.h>", "// comment\n", "/* c */", "\"\"\"doc\"\"\"", "'''",
           "a+b", "a + b", "a  +  b", "$x", "%d", "@decorator\n", "~`!@#$%^&*", "\\n\\t\\\\", "C:\\path\\file", "http://example.com/a?b=c&d=e#f", "user@example.com",
           "if x:\n    return y\n", "def f():\n        pass\n\n\n", "\tif (x) {\n\t\treturn;\n\t}\n", "x = 1\n\n\n\ny = 2", "    \n    x", " \t \t x", "x \n\n  y", "x\n \n y", "end   ", "end\n\n   ",
           "for i in range(10):\n    print(i)\n", "return NULL;\n}\n", "static const int kMax = 0x10;", "template <typename T>\nclass Foo<T*> {};", "{\"key\": [1, 2.5, null, true]}",
           "caf\u00e9 na\u00efve \u00fcber stra\u00dfe", "\u00c6\u00d8\u00c5 \u00e6\u00f8\u00e5", "\u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439, \u043c\u0438\u0440", "\u03b1\u03b2\u03b3 \u0394x", "\u4f60\u597d\uff0c\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "\uc548\ub155\ud558\uc138\uc694", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd",
           "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\U0001f600", "\U0001f600\U0001f601", "a\U0001f600b", " \U0001f680 launch", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "\u2713 \u2717", "\u2192 \u21d2 \u2264 \u2260",
           "\u201cquotes\u201d \u2018single\u2019", "dash \u2014 en \u2013", "\u2026", "\u20ac100 \u00a35 \u00a520", "\U0001d400\U0001d401", "\ud55c\uae00 ABC 123", "mixed \u6df7\u5408 text",
           "<|endoftext|>", "<|endoftext|><|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|mask|>", "x <|mask|> y", "<|reserved_0|><|reserved_5|>", "<|reserved_6|>", "<|endoftext|", "<|endoftext", "|endoftext|>",
           "<|ENDOFTEXT|>", "< |endoftext|>", "<<|mask|>>", "<|mask|>\n<|mask|>", "\n<|endoftext|>\n", "<|im_start|>user", "<|end<|mask|>oftext|>", "<|<|mask|>|>",
           "a" * 50, "ab" * 40, " " * 7, " " * 64, "\n" * 9, "=" * 79, "-" * 33, "." * 17, "# " + "-" * 76, "\t" * 5, "0" * 20, "\u00e9" * 10, "\U0001f600" * 5, "x " * 20, "!?" * 12]
    for d in docs[::max(1, len(docs) // 24)][:24]:
        text = d["text"]
        at = len(text) // 3
        out += [text[at:at + 120]]
        if len(out) >= 205:
            break
    return list(dict.fromkeys(out))


def encode(tok, docs, path):
    rows = []
    for s in strings(docs):
        ids = tok.encode(s, add_special_tokens=False).ids
        rows.append({"text": s, "ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False)})
    write(path, rows, about="encoding with special tokens recognised in the text; decoded keeps them")
    print("encode cases:", len(rows), "of which decoded differs:", sum(r["text"] != r["decoded"] for r in rows))


def prompts(tok, docs, path):
    rows = []
    for kind in ("code", "prose"):
        texts = evaluate.prompts(docs, tok, kind, 32, 40, 100)
        if len(texts) < 32:
            print(f"only {len(texts)} prompts of {kind}")
        rows += [{"kind": kind, "text": t} for t in texts]
    write(path, rows)
    return rows


def main(data, folder, out):
    os.makedirs(out, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = Tokenizer.from_file(f"{folder}/tokenizer.json")
    docs = json.load(open(f"{data}/heldout.json"))
    target = decode.Target(folder, device)
    drafter = decode.Drafter(folder, target)
    encode(tok, docs, f"{out}/encode.json")
    logits(target, tok, docs, f"{out}/golden.safetensors")
    rows = prompts(tok, docs, f"{out}/prompts.json")
    decodes(target, drafter, tok, rows, docs, f"{out}/decode.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
