# Makes the golden files of this folder with Hugging Face's tokenizers: three small tokenizers, ids of varied strings, and
# pieces of every kind of pre-tokenizer.   python3 make.py (needs tokenizers)
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")

TEXT = """
The harbour was quiet before the ferry came in, and then it wasn't. Nets were drying on the wall; somebody's dog slept.
She'd counted 128 boxes, 64 barrels and 12,345 apples by noon. "We'll sail at 6:30," they said, "if the wind holds."
It's the third time they've changed the plan - I'm told you're fine with it, and he'd rather not say.
def area(width, height=1.0):
    \"\"\"Return the area of a rectangle.\"\"\"
    if width < 0 or height < 0:
        raise ValueError(f"negative size: {width} x {height}")
    return width * height

for (int i = 0; i < count; i++) {
\tif (values[i] > limit) total += values[i] * 2;
\telse printf("%d: %s\\n", i, names[i]);
}
Die Straße führt über den Fluß, die Bäume blühen schön. Le garçon a déjà mangé où l'été finit. El niño está aquí, ¿verdad?
Сегодня хорошая погода, и дети играют в саду. 今日は天気がいいですね。学校へ行きます。我们明天去北京。안녕하세요 여러분.
שלום לכולם. مرحبا بالعالم. สวัสดีชาวโลก नमस्ते दुनिया
naïve café résumé coöperate 😀 🎉 👩‍👩‍👧 ✓ → ∞ ½ €100
"""


def corpus():
    rng = random.Random(1)
    lines = [line for line in TEXT.split("\n")]
    for _ in range(400):
        line = rng.choice(lines).split(" ")
        rng.shuffle(line)
        yield " ".join(line) + rng.choice(["\n", "\n\n", " ", "\r\n"])


def train(pre, normalizer=None, specials=(), **model):
    t = Tokenizer(models.BPE(**model))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=640,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=list(specials),
            show_progress=False,
        ),
    )
    return t


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def strings():
    out = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", "\t", "\t\t x", "a", " a", "a ", "  a  b  "]
    out += ["word\n  indented\n\ttabbed\n\n\nend", "trailing   ", "   leading", "a\r\nb\rc\nd", "x \t \n \t y"]
    out += ["It's", "IT'S", "it'S we'LL they'Ve I'D", "it’s", "'s", "''s", "don't'll", "it'ſ I'M"]
    out += ["0", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000", "½ ⅔ ⅷ ٣٤٥ १२३ 𝟙𝟚𝟛 一二三", "x1y22z333"]
    out += ["hello", "Hello", "HELLO", " hello world", "harbour", "the the the", "thethethe", "antidisestablishmentarianism"]
    out += ["!", "!!!", "...", " ...", "?!\n", "!\r\n\n", "a.b.c", "(x)[y]{z}", "a_b__c", "#include <stdio.h>", "a->b", "::", "//\n"]
    out += ["def f(x):\n    return x ** 2\n", "for (i = 0; i < n; i++) {\n\tsum += a[i];\n}\n", "if(x){y();}", "\\n\\t", "`code`"]
    out += ["SELECT * FROM t WHERE a='b';", "https://example.org/a?b=c&d=e#f", "user@example.org", "C:\\dir\\file.txt", "$HOME/bin"]
    out += ["é", "e\u0301", "naïve", "nai\u0308ve", "Å", "A\u030a", "ﬁ", "ǆ", "İ", "ß", "ẞ", "ſ", "\u1e9b\u0323", "q\u0323\u0307", "q\u0307\u0323"]
    out += ["\u0301", " \u0301x", "a\u0301\u0302\u0303\u0304", "가", "\u1100\u1161\u11a8", "각\u11a8", "\u0b95\u0bca", "\u2126 \u212a \u212b", "\ufb1d", "\u0344"]
    out += ["日本語", "今日は", " 日本語 テスト", "中文，标点。", "한국어 문장", "Привет, мир!", "ΑΒΓ αβγ ς", "שלום", "مرحبا", "สวัสดี", "नमस्ते", "ქართული"]
    out += ["😀", "😀😀", " 😀", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "❤️", "a😀b", "✓→∞", "𝒜𝓑", "𐍈", "\U0010ffff", "\ufffd", "\ufeffbom"]
    out += ["\u00a0", "a\u00a0b", "\u2003x", "\u3000全角", "\u200b", "a\u200db", "\u2028", "x\u2029y", "\u0085", "a\u0085b", "\u180e", "a \u180e b", "\v\f", "\x1c\x1d", "\x7f", "\x01\x02"]
    out += ["<|end|>", "a<|end|>b", "<|end|><|end|>", " <|end|> ", "<|en", "<|end|", "<|end|>|>", "x<tool>y</tool>z", "<tool", "<tool><|end|></tool>", "<|begin|>hi", "<|end_of|>", "<|end|>\n\nnext"]
    out += ["a" * 100, "ab" * 70, " " * 100, "\n" * 50, "é" * 60, "😀" * 20, "the " * 30, "1" * 100, "a" * 63 + "b", "harbour" * 12, "(" * 80, "\t \t " * 20, "e\u0301" * 40]
    return out


def cases(t):
    out = []
    for text in strings():
        ids = t.encode(text, add_special_tokens=False).ids
        out.append({"text": text, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False)})
    return out


def dump(name, value):
    with open(name, "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")


def save(name, t):
    dump(name + ".json", json.loads(t.to_str()))
    dump(name + ".ids.json", cases(t))


special = [AddedToken("<|end|>", special=True, normalized=False), AddedToken("<|end_of|>", special=True, normalized=False)]
gpt = train(pre_tokenizers.Sequence([split(GPT4), byte_level()]), specials=special)
gpt.post_processor = processors.ByteLevel(trim_offsets=False)
save("gpt", gpt)

qwen = train(pre_tokenizers.Sequence([split(QWEN), byte_level()]), normalizers.NFC())
qwen.add_special_tokens(special)
qwen.add_tokens([AddedToken(w, special=False, normalized=n) for w, n in (("<tool>", False), ("</tool>", False), ("over", True))])
save("qwen", qwen)

begin = AddedToken("<|begin|>", special=True, normalized=False)
llama = train(pre_tokenizers.Sequence([split(GPT4), byte_level()]), ignore_merges=True)
# A token that no merge makes: with ignore_merges a piece of just these letters is it.
state = json.loads(llama.to_str())
state["model"]["vocab"]["antidisestablishmentarianism"] = llama.get_vocab_size()
llama = Tokenizer.from_str(json.dumps(state))
llama.add_special_tokens([begin] + special)
llama.post_processor = processors.Sequence(
    [
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<|begin|> $A",
            pair="<|begin|> $A <|begin|> $B:1",
            special_tokens=[("<|begin|>", llama.token_to_id("<|begin|>"))],
        ),
    ]
)
save("llama", llama)

# Ids with other pre-tokenizers over the vocabulary of gpt.
kinds = []
for behavior in ("isolated", "merged_with_previous", "merged_with_next", "contiguous", "removed"):
    for invert in (False, True):
        kinds.append([split(r"[aeiou\s]", behavior, invert), byte_level()])
for pattern in (r"(?=[A-Z])", r"x*", r"^\s*|\s*$", r"\S+", r"[^\s]+", r"(?<=\d)(?=(?:\d{3})+(?!\d))", r"[\p{Lu}\p{Lt}]?[\p{Ll}\p{M}]+|.", r"a|ab", r"\p{L}++", r"[\p{Han}\p{Hiragana}]+|\p{^Latin}", r"\P{Greek}+", r"[\x{1F600}-\x{1F64F}\t]", r"\D+"):
    kinds.append([split(pattern), byte_level()])
kinds.append([pre_tokenizers.Split(" ", "merged_with_next"), byte_level()])
kinds.append([pre_tokenizers.Split(".b", "isolated"), byte_level()])
kinds.append([pre_tokenizers.Digits(individual_digits=True), byte_level()])
kinds.append([pre_tokenizers.Digits(individual_digits=False), byte_level()])
kinds.append([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
kinds.append([split(r"[\r\n]"), split(r"\s?\p{L}+"), pre_tokenizers.Digits(individual_digits=True), split(r"[一-龥ぁ-ー]+"), byte_level()])
out = []
for kind in kinds:
    gpt.pre_tokenizer = pre_tokenizers.Sequence(kind)
    some = [c for i, c in enumerate(cases(gpt)) if i % 3 == 0 or "'" in c["text"] or "." in c["text"]]
    out.append({"pre_tokenizer": json.loads(gpt.to_str())["pre_tokenizer"], "cases": [{"text": c["text"], "ids": c["ids"]} for c in some]})
dump("splits.json", out)
